"""The program inside the sandbox: gives up its rights, then runs the code it is sent, one call after the other.

It is run by its source text (``python -c``), by the interpreter that the settings name, so it imports nothing but the
standard library, and ``sandbox/inside.py``, whose text comes first. The sandbox starts it with one argument, the
settings as JSON. It reads requests ``{"nonce": ..., "code": ...}`` on what it was given as standard input and answers
each by ``{"nonce": ..., "output": ...}`` on what it was given as standard output, one line each; both are gone from
fds 0 to 2 when the first code runs. Nothing here is trusted by the other side: code can reach everything in its own
process.
"""

from __future__ import annotations

import ast
import base64
import fcntl
import io
import json
import linecache
import os
import random
import socket
import sys
import traceback
import types
import typing

from verl_atpo.tools.sandbox.inside import give_up, limit, restrict_files

FORBIDDEN_FILE = "/etc/passwd"


def check_locked() -> None:
    """Try forbidden actions; a sandbox that allows one must not start."""
    attempts = {
        "read " + FORBIDDEN_FILE: lambda: os.close(os.open(FORBIDDEN_FILE, os.O_RDONLY)),
        "open a socket": lambda: socket.socket().close(),
        "start a process": lambda: os.fork() or os._exit(0),
    }
    for what, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        raise RuntimeError(f"the sandbox does not hold: code in it could {what}")


def make_repeatable(seed: int) -> None:
    """Seed ``random`` and the system's entropy, which ``secrets``, ``uuid`` and numpy's generators start from."""
    random.seed(seed)
    os.urandom = random._urandom = random.Random(seed).randbytes  # type: ignore[attr-defined]


class Output(io.RawIOBase):
    """Beginning and end of a cell's output, so that memory stays bounded."""

    def __init__(self, size: int) -> None:
        self.half = size // 2
        self.clear()

    def clear(self) -> None:
        self.head, self.tail, self.written = b"", b"", 0

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing: streams on this close it when they are collected."""

    def write(self, data: typing.Any) -> int:
        data = bytes(data)
        self.written += len(data)
        room = self.half - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[room:])[-self.half :]
        return len(data)

    def text(self) -> str:
        left_out = self.written - len(self.head) - len(self.tail)
        if not left_out:
            return (self.head + self.tail).decode("utf-8", "replace")
        head, tail = (part.decode("utf-8", "ignore") for part in (self.head, self.tail))
        return f"{head}\n[{left_out} bytes left out]\n{tail}"


class Session:
    """A module ``__main__`` in which cells of code run, as in a notebook."""

    def __init__(self, output_bytes: int) -> None:
        self.output = Output(output_bytes)
        self.module = types.ModuleType("__main__")
        sys.modules["__main__"] = self.module
        self.cells = 0

    def run(self, code: str) -> str:
        """Run one cell; returns its output, the value of its last expression, and its exception."""
        self.output.clear()
        # A stream of each cell's own, as the last one may have closed its own.
        stream: typing.Any = io.TextIOWrapper(self.output, "utf-8", "backslashreplace", write_through=True)
        sys.stdout = sys.stderr = stream
        try:
            self._execute(code)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: the session continues
            self.output.write(described(error).encode("utf-8", "backslashreplace"))
        return self.output.text()

    def _execute(self, code: str) -> None:
        self.cells += 1
        name = f"<call {self.cells}>"
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        tree = ast.parse(code, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
        names = self.module.__dict__
        exec(compile(tree, name, "exec"), names)
        if last is not None:
            value = eval(compile(last, name, "eval"), names)
            if value is not None:
                print(repr(value))


def described(error: BaseException) -> str:
    """Format the traceback; only the type of an exception that the model built to have none."""
    try:
        return _own_traceback(error)
    except BaseException:  # attributes of any type and methods that raise: the model's error like any other
        return f"An exception of {type.__repr__(type(error))}, which cannot be shown\n"


def _own_traceback(error: BaseException) -> str:
    """Format the traceback without the frames of this file and of libraries."""
    shown = traceback.TracebackException.from_exception(error)
    pending: list[traceback.TracebackException] = [shown]
    while pending:
        each = pending.pop()
        own = [frame for frame in each.stack if frame.filename.startswith("<call ")]
        each.stack = traceback.StackSummary.from_list(own)
        others = (each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ()))  # groups since 3.11
        pending += [other for other in others if other is not None]
    return "".join(shown.format())


def serve(session: Session, requests: typing.BinaryIO, replies: int) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        request = json.loads(line)
        reply = json.dumps({"nonce": request["nonce"], "output": session.run(request["code"])})
        data = reply.encode() + b"\n"
        while data:
            data = data[os.write(replies, data) :]


def main(settings: dict[str, typing.Any]) -> None:
    lowest = 3
    requests = os.fdopen(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, lowest), "rb")
    replies = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, lowest)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    limit(settings["niceness"], settings["limits"])
    if settings["rules"]:
        restrict_files(settings["rules"])
    give_up(base64.b64decode(settings["filter"]))
    if settings["filter"]:
        check_locked()
    make_repeatable(settings["seed"])
    session = Session(settings["output_bytes"])
    os.write(replies, b"ready\n")
    os.dup2(null, 2)
    os.close(null)
    serve(session, requests, replies)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
