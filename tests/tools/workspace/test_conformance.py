"""The conformance test: our provider keeps every promise, and each broken promise is found."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.assets.workspaces import WAYS, make_provider
from verl_atpo.tools.workspace import Completed, LocalProvider, Provider, Workspace
from verl_atpo.tools.workspace.conformance import CHECKS, conformance, main, verdict


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_the_local_provider_keeps_every_promise(way: tuple[str, str], tmp_path: Path):
    provider = make_provider(way, tmp_path, wall_s=60.0)
    try:
        assert {each.promise: each.problem for each in conformance(provider)} == dict.fromkeys(CHECKS)
    finally:
        provider.close()


class Broken(Provider):
    """A provider that is like a good one but for one fault."""

    fault = ""

    def __init__(self, good: LocalProvider) -> None:
        self.good = good

    def create(self, template: str | None = None, files: Mapping[str, str] | None = None) -> Workspace:
        return self.changed(self.good.create(template, files))

    def restore(self, snapshot: Any) -> Workspace:
        return self.changed(self.good.restore(snapshot))

    def changed(self, workspace: Workspace) -> Workspace:
        return workspace

    def close(self) -> None:
        self.good.close()


class Changed(Workspace):
    """Hands everything on to another workspace."""

    def __init__(self, inner: Workspace) -> None:
        self.inner = inner

    def run(self, command: str, stdin: bytes = b"", **limits: Any) -> Completed:
        return self.inner.run(command, stdin, **limits)

    def snapshot(self) -> Any:
        return self.inner.snapshot()

    def close(self) -> None:
        self.inner.close()


def broken(
    run: Any = None, close: Any = None, write: Any = None, read: Any = None, snapshot: Any = None
) -> type[Broken]:
    """A provider whose workspaces have other methods."""
    methods = {"run": run, "close": close, "write": write, "read": read, "snapshot": snapshot}
    kind = type("Faulty", (Changed,), {name: method for name, method in methods.items() if method is not None})
    return type("Faulty", (Broken,), {"changed": lambda self, workspace: kind(workspace)})


def only_standard_output(self: Any, command: str, stdin: bytes = b"", **limits: Any) -> Completed:
    return self.inner.run(f"{{ {command}\n}} 2>/dev/null", stdin, **limits)


def raising(self: Any, command: str, stdin: bytes = b"", **limits: Any) -> Completed:
    done = self.inner.run(command, stdin, **limits)
    if done.exit_code == 127:
        raise FileNotFoundError(command)
    return done


def without_stdin(self: Any, command: str, stdin: bytes = b"", **limits: Any) -> Completed:
    return self.inner.run(command, stdin[:65536], **limits)


def only_the_end(self: Any, command: str, stdin: bytes = b"", **limits: Any) -> Completed:
    done = self.inner.run(command, stdin, wall_s=limits.get("wall_s"), output_bytes=1 << 22)
    most = limits.get("output_bytes")
    return done if most is None else dataclasses.replace(done, output=done.output[-most:])


def stopped_like_failed(self: Any, command: str, stdin: bytes = b"", **limits: Any) -> Completed:
    done = self.inner.run(command, stdin, **limits)
    return dataclasses.replace(done, exit_code=-9, stopped=None) if done.stopped else done


def with_environment(self: Any, command: str, stdin: bytes = b"", **limits: Any) -> Completed:
    exports = "".join(f"export {name}={value}; " for name, value in os.environ.items() if name.startswith("ATPO_"))
    return self.inner.run(exports + command, stdin, **limits)


def run_after_close(self: Any) -> None:
    """It never closes."""


def short_read(self: Any, path: str, most_bytes: int = 1 << 20) -> bytes:
    return self.inner.read(path, most_bytes).rstrip(b"\n")


def quiet_write(self: Any, path: str, content: bytes) -> None:
    with contextlib.suppress(Exception):
        self.inner.write(path, content)


class SharedFolder(Broken):
    """All workspaces are one."""

    def __init__(self, good: LocalProvider) -> None:
        super().__init__(good)
        self.one = good.create()

    def create(self, template: str | None = None, files: Mapping[str, str] | None = None) -> Workspace:
        for path, content in (files or {}).items():
            self.one.write(path, content.encode())
        return type("Open", (Changed,), {"close": lambda self: None})(self.one)


class NoFiles(Broken):
    def create(self, template: str | None = None, files: Mapping[str, str] | None = None) -> Workspace:
        return self.good.create(template)


class AnyPath(Broken):
    def create(self, template: str | None = None, files: Mapping[str, str] | None = None) -> Workspace:
        return self.good.create(template, {os.path.basename(path) or "x": text for path, text in (files or {}).items()})


class LiveSnapshot(Broken):
    """A snapshot is the workspace itself, read when it is restored."""

    def changed(self, workspace: Workspace) -> Workspace:
        return type("Live", (Changed,), {"snapshot": lambda self: self.inner})(workspace)

    def restore(self, snapshot: Any) -> Workspace:
        return self.changed(self.good.restore(snapshot.snapshot()))


class Forgetful(Broken):
    """Modes and empty folders are lost in a fork."""

    def restore(self, snapshot: Any) -> Workspace:
        workspace = self.good.restore(snapshot)
        workspace.run("chmod -R u+rwX,go=rX .; find . -type d -empty -delete")
        return workspace


class OneFork(Broken):
    """All forks of a snapshot are one workspace."""

    def __init__(self, good: LocalProvider) -> None:
        super().__init__(good)
        self.forks: dict[int, Any] = {}

    def restore(self, snapshot: Any) -> Workspace:
        if id(snapshot) not in self.forks:
            self.forks[id(snapshot)] = (self.good.restore(snapshot), snapshot)
        return type("Open", (Changed,), {"close": lambda self: None})(self.forks[id(snapshot)][0])


class ForgetsClosed(Broken):
    """Snapshots go with their workspace."""

    def changed(self, workspace: Workspace) -> Workspace:
        taken: list[Any] = []

        def snapshot(changed: Any) -> Any:
            taken.append([changed.inner.snapshot()])
            return taken[-1]

        def close(changed: Any) -> None:
            for each in taken:
                each[:] = [None]
            changed.inner.close()

        return type("Forgets", (Changed,), {"snapshot": snapshot, "close": close})(workspace)

    def restore(self, snapshot: Any) -> Workspace:
        return self.changed(self.good.restore(snapshot[0]))


FAULTS: dict[str, type[Broken]] = {
    "a command's output is both streams in order, with its exit code": broken(only_standard_output),
    "a command that fails or is not there is an answer": broken(raising),
    "a command reads its standard input to the end": broken(without_stdin),
    "a long output is cut in the middle and says so": broken(only_the_end),
    "a command that takes too long is stopped and says so": broken(stopped_like_failed),
    "workspaces share no files": SharedFolder,
    "a workspace begins with its files": NoFiles,
    "a path of such a file that leads elsewhere is refused": AnyPath,
    "a snapshot is not changed by later commands": LiveSnapshot,
    "a restored workspace is equal, with modes, links, empty folders and removed files": Forgetful,
    "a snapshot can be restored many times, and forks see nothing of one another": OneFork,
    "a snapshot stays when its workspace is closed": ForgetsClosed,
    "a closed workspace refuses everything, and may be closed again": broken(close=run_after_close),
    "files are read and written whatever their names and contents": broken(read=short_read),
    "a file that cannot be read or written is refused": broken(write=quiet_write),
    "commands see no variable of the trainer's environment": broken(with_environment),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProvider]:
    provider = make_provider(WAYS[0], tmp_path_factory.mktemp("workspaces"), wall_s=60.0)
    yield provider
    provider.close()


@pytest.mark.parametrize("promise", FAULTS)
def test_a_broken_promise_is_found(good: LocalProvider, promise: str):
    assert verdict(FAULTS[promise](good), promise).problem is not None
    assert verdict(Broken(good), promise).problem is None  # the check itself is sound


def test_the_command_line_names_what_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    kept = "files stay from command to command"
    monkeypatch.setattr("verl_atpo.tools.workspace.conformance.CHECKS", {kept: CHECKS[kept], "never kept": _never})
    assert main(["verl_atpo.tools.workspace:LocalProvider"]) == 1
    shown = capsys.readouterr().out
    assert f"  {kept}" in shown and "BROKEN" in shown and "expected 1, got 2" in shown
    assert "1 of 2 promises are kept." in shown
    for wrong in ([], ["verl_atpo.tools.workspace"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(wrong)
    assert "'verl_atpo.tools.workspace' names no class" in capsys.readouterr().err


def _never(provider: Provider) -> None:
    from verl_atpo.tools.workspace.conformance import expect

    expect("a number", 2, 1)
