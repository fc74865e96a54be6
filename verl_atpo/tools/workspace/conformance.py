"""Conformance test of a provider of workspaces: ``python -m verl_atpo.tools.workspace.conformance module:Class``.

Each promise of the contract is a check of its own. A check makes what it needs and closes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from verl_atpo.tools.workspace.contract import Provider, WorkspaceError

CHECKS: dict[str, Callable[[Provider], None]] = {}
"""By promise: raises :class:`Broken` where a provider breaks it."""
SECRET = "ATPO_CONFORMANCE_SECRET"
LONG = 1_000_000


class Broken(AssertionError):
    """A promise that a provider does not keep; the message says what was expected and what was found."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Result of one check.

    Attributes:
        promise: promise that was checked.
        problem: problem; None if the promise is kept.
        seconds: that the check took.
    """

    promise: str
    problem: str | None
    seconds: float


def conformance(provider: Provider) -> Iterator[Verdict]:
    """Check every promise; yields a verdict each, as they come."""
    for promise in CHECKS:
        yield verdict(provider, promise)


def verdict(provider: Provider, promise: str) -> Verdict:
    """Check one promise."""
    started, problem = time.monotonic(), None
    try:
        CHECKS[promise](provider)
    except Broken as broken:
        problem = str(broken)
    except Exception:
        problem = traceback.format_exc(limit=-3).strip()
    return Verdict(promise, problem, time.monotonic() - started)


def promise(text: str) -> Callable[[Callable[[Provider], None]], Callable[[Provider], None]]:
    """Register a check under what it checks."""

    def registered(check: Callable[[Provider], None]) -> Callable[[Provider], None]:
        CHECKS[text] = check
        return check

    return registered


def expect(what: str, found: Any, expected: Any) -> None:
    """Raise :class:`Broken` unless both are equal."""
    if found != expected:
        raise Broken(f"{what}: expected {_cut(expected)}, got {_cut(found)}")


def refused(what: str, action: Callable[[], Any]) -> None:
    """Raise :class:`Broken` unless the action raises a WorkspaceError."""
    try:
        found = action()
    except WorkspaceError:
        return
    except Exception as error:
        raise Broken(f"{what}: expected a WorkspaceError, got {error!r}") from error
    raise Broken(f"{what}: expected a WorkspaceError, got {_cut(found)}")


@promise("a command's output is both streams in order, with its exit code")
def _output(provider: Provider) -> None:
    with provider.create() as workspace:
        done = workspace.run("echo one; echo two >&2; echo three; exit 3")
        expect(
            "output, exit code, stopped", (done.output, done.exit_code, done.stopped), (b"one\ntwo\nthree\n", 3, None)
        )
        done = workspace.run("true")
        expect("output, exit code of `true`", (done.output, done.exit_code, done.stopped), (b"", 0, None))


@promise("a command that fails or is not there is an answer")
def _failures(provider: Provider) -> None:
    with provider.create() as workspace:
        expect("exit code of an unknown command", workspace.run("no_such_command_of_anyone").exit_code, 127)
        expect("exit code of a killed shell", workspace.run("kill -KILL $$").exit_code, 137)
        done = workspace.run("if then")
        if done.exit_code in (0, None):
            raise Broken(f"a syntax error: expected an exit code other than 0, got {done.exit_code}")


@promise("a command reads its standard input to the end")
def _stdin(provider: Provider) -> None:
    data = bytes(range(256)) * 4096
    with provider.create() as workspace:
        expect("bytes of standard input", workspace.run("wc -c", stdin=data).text.strip(), str(len(data)))
        expect("output without standard input", workspace.run("cat").output, b"")


@promise("a long output is cut in the middle and says so")
def _long_output(provider: Provider) -> None:
    with provider.create() as workspace:
        done = workspace.run(f"echo first; head -c {LONG} /dev/zero | tr '\\0' x; echo; echo last", output_bytes=1000)
        if len(done.output) > 1200 or len(done.output) < 500:
            raise Broken(f"an output of {LONG} bytes with output_bytes=1000: got {len(done.output)} bytes")
        if not done.output.startswith(b"first\n") or not done.output.endswith(b"last\n"):
            raise Broken(f"both ends of a long output are kept: got {_cut(done.output)}")


@promise("a command that takes too long is stopped and says so")
def _time(provider: Provider) -> None:
    with provider.create() as workspace:
        started = time.monotonic()
        done = workspace.run("echo begun; sleep 600", wall_s=2.0)
        seconds = time.monotonic() - started
        expect("exit code of a stopped command", done.exit_code, None)
        if not done.stopped or seconds > 60:
            raise Broken(f"sleep 600 with wall_s=2: stopped={done.stopped!r} after {seconds:.0f} s")
        expect("output before it was stopped", done.output, b"begun\n")
        expect("the next command", workspace.run("echo on").output, b"on\n")


@promise("nothing that a command started is left after it")
def _left_processes(provider: Provider) -> None:
    with provider.create() as workspace:
        started = time.monotonic()
        workspace.run("touch beats; (while true; do echo >> beats; sleep 0.1; done) >/dev/null 2>&1 & sleep 0.5")
        workspace.run("setsid sh -c 'while true; do echo >> beats; sleep 0.1; done' >/dev/null 2>&1 & sleep 0.5")
        if time.monotonic() - started > 30:
            raise Broken("a command waited for what it had put into the background")
        before = workspace.run("wc -c < beats").text
        time.sleep(1)
        expect("size of a file that a left process writes to", workspace.run("wc -c < beats").text, before)


@promise("files stay from command to command")
def _files_stay(provider: Provider) -> None:
    with provider.create() as workspace:
        done = workspace.run(
            "mkdir -p a/b && echo text > a/b/c && ln -s c a/b/link && chmod 750 a/b/c; stat -c %a a/b/c"
        )
        expect("a file", workspace.run("cat a/b/link; stat -c %a a/b/c").output, b"text\n" + done.output)


@promise("workspaces share no files")
def _apart(provider: Provider) -> None:
    with provider.create() as one, provider.create() as other:
        one.run('echo secret > file; echo secret > "${TMPDIR:-/tmp}/file"')
        expect("another's files", other.run('ls -A . "${TMPDIR:-/tmp}" | grep file').output, b"")


@promise("a workspace begins with its files")
def _begins(provider: Provider) -> None:
    with provider.create(files={"a.txt": "a\u00fc\n", "deep/er/b.txt": ""}) as workspace:
        expect("files", workspace.run("cat a.txt; find . -type f | sort").text, "a\u00fc\n./a.txt\n./deep/er/b.txt\n")


@promise("a path of such a file that leads elsewhere is refused")
def _refused_files(provider: Provider) -> None:
    for path in ("../escaped", "/tmp/escaped", "a/../../escaped", ""):
        refused(f"create(files={{{path!r}: ...}})", functools.partial(provider.create, files={path: "text"}))


@promise("a snapshot is not changed by later commands")
def _fixed(provider: Provider) -> None:
    with provider.create(files={"file": "one", "gone": "gone", "old/x": "x"}) as workspace:
        snapshot = workspace.snapshot()
        workspace.run("printf two | dd of=file conv=notrunc status=none; chmod 600 file; rm -r gone old; echo > new")
        with provider.restore(snapshot) as restored:
            expect("a file written in place after the snapshot", restored.read("file"), b"one")
            expect("files of the snapshot", restored.run("find . -type f | sort").text, "./file\n./gone\n./old/x\n")
        expect("the workspace itself", workspace.run("cat file; ls").text, "twofile\nnew\n")


@promise("a restored workspace is equal, with modes, links, empty folders and removed files")
def _equal(provider: Provider) -> None:
    look = r"find . -printf '%p %y %m %l\n' | sort; cat d/e; cat gone 2>&1 | wc -l"
    with provider.create(files={"gone": "1\n", "d/e": "e\n", "moved/in": "in\n"}) as workspace:
        workspace.run("rm gone; mkdir empty; ln -s d/e link; chmod 711 d; chmod 400 d/e; mv moved away; mkdir moved")
        expected = workspace.run(look).text
        with provider.fork(workspace) as fork:
            expect("a fork", fork.run(look).text, expected)
            with provider.fork(fork) as second:
                expect("a fork of a fork", second.run(look).text, expected)


@promise("a snapshot can be restored many times, and forks see nothing of one another")
def _many(provider: Provider) -> None:
    with provider.create(files={"file": "start\n"}) as workspace:
        snapshot = workspace.snapshot()
        forks = [provider.restore(snapshot) for _ in range(4)]
        try:
            for number, fork in enumerate(forks):
                fork.run(f"echo {number} >> file; touch only_{number}")
            for number, fork in enumerate(forks):
                expect(f"fork {number}", fork.run("cat file; ls").text, f"start\n{number}\nfile\nonly_{number}\n")
            expect("the forked workspace", workspace.run("cat file; ls").text, "start\nfile\n")
        finally:
            for fork in forks:
                fork.close()


@promise("many snapshots of one workspace stay what they were")
def _history(provider: Provider) -> None:
    with provider.create() as workspace:
        snapshots = []
        for number in range(40):
            workspace.run(f"echo {number} > file; touch file_{number}; rm -f file_{number - 2}")
            snapshots.append(workspace.snapshot())
        for number in (0, 1, 20, 39):
            with provider.restore(snapshots[number]) as restored:
                names = sorted(["file", *(f"file_{each}" for each in range(max(number - 1, 0), number + 1))])
                expect(f"snapshot {number}", restored.run("cat file; LC_ALL=C ls").text.split(), [str(number), *names])


@promise("a snapshot stays when its workspace is closed")
def _outlives(provider: Provider) -> None:
    workspace = provider.create(files={"file": "text"})
    snapshot = workspace.snapshot()
    workspace.close()
    with provider.restore(snapshot) as restored:
        expect("a file", restored.read("file"), b"text")


@promise("a closed workspace refuses everything, and may be closed again")
def _closed(provider: Provider) -> None:
    workspace = provider.create()
    workspace.close()
    workspace.close()
    refused("run after close", lambda: workspace.run("echo ran"))
    refused("snapshot after close", workspace.snapshot)


@promise("files are read and written whatever their names and contents")
def _read_write(provider: Provider) -> None:
    contents = {"-n": b"", "a b": bytes(range(256)), "$(id)": b"x" * 100_000, "new/fol der/'q\"": b"\n\n"}
    with provider.create() as workspace:
        for name, content in contents.items():
            workspace.write(name, content)
            expect(f"the file {name!r}", workspace.read(name), content)
        workspace.write("a b", b"short")
        expect("a file written again", workspace.read("a b"), b"short")


@promise("a file that cannot be read or written is refused")
def _unreadable(provider: Provider) -> None:
    with provider.create(files={"folder/x": "12345"}) as workspace:
        refused("read a file that is not there", lambda: workspace.read("none"))
        refused("read a folder", lambda: workspace.read("folder"))
        refused("read 5 bytes with most_bytes=4", lambda: workspace.read("folder/x", 4))
        refused("write to a folder", lambda: workspace.write("folder", b""))


@promise("commands see no variable of the trainer's environment")
def _environment(provider: Provider) -> None:
    import os

    os.environ[SECRET] = "secret"
    try:
        with provider.create() as workspace:
            expect("a variable of the trainer's", workspace.run(f"echo ${SECRET}").output, b"\n")
    finally:
        del os.environ[SECRET]


@promise("one provider serves many threads")
def _threads(provider: Provider) -> None:
    found: dict[int, str] = {}

    def used(number: int) -> None:
        with provider.create(files={"file": f"{number}\n"}) as workspace, provider.fork(workspace) as fork:
            found[number] = workspace.run("cat file").text + fork.run("cat file").text

    threads = [threading.Thread(target=used, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect("what each thread read", found, {number: f"{number}\n{number}\n" for number in range(4)})


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"


def main(arguments: list[str]) -> int:
    """Check the provider that is named on the command line; returns the number of broken promises."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description="Check a provider of workspaces.")
    parser.add_argument("provider", metavar="package.module:Provider", help="a class that is made without arguments")
    named = parser.parse_args(arguments).provider
    module, colon, name = named.partition(":")
    if not colon:
        parser.error(f"{named!r} names no class: expected package.module:Provider")
    sys.path.insert(0, "")
    provider = getattr(importlib.import_module(module), name)()
    broken = 0
    try:
        for each in conformance(provider):
            broken += each.problem is not None
            print(f"{'ok    ' if each.problem is None else 'BROKEN'} {each.seconds:6.2f} s  {each.promise}")
            if each.problem is not None:
                print("        " + each.problem.replace("\n", "\n        "))
    finally:
        provider.close()
    print(f"{len(CHECKS) - broken} of {len(CHECKS)} promises are kept.")
    return min(broken, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
