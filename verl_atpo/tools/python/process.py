"""A child process whose streams the event loop reads, with a start and an end that are safe beside threads.

``subprocess.Popen`` starts it: between fork and exec it runs no Python. An event loop's own way may: uvloop's, which
Ray workers use, re-initialises the interpreter in the child, and stops there for ever if another thread (gRPC has many)
held a lock of the interpreter when the process was forked. It is started by the loop's thread, because a parent's death
means the death of the thread to the kernel (``PR_SET_PDEATHSIG``).

Its streams are sockets, not pipes: of a pipe, both uvloop and Python's file object close the file descriptor, and what
another thread opened under the same number in between is closed with it. A socket is handed over.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Sequence

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.05


class Process:
    """A running child; made by :meth:`start`, and to be ended by :meth:`communicate`.

    Attributes:
        pid: its process id.
        stdout, stderr: its output streams.
    """

    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._streams: list[asyncio.StreamWriter] = []
        self.pid = popen.pid

    @classmethod
    async def start(
        cls, command: Sequence[str], *, env: dict[str, str], cwd: str, pass_fds: Sequence[int], limit: int
    ) -> Process:
        """Start ``command`` in a session of its own.

        Args:
            command: program and arguments.
            env: all of its environment.
            cwd: its working folder.
            pass_fds: file descriptors that it inherits, besides its streams.
            limit: bytes of the longest line.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = _pairs(3)
        theirs[0].shutdown(socket.SHUT_WR)  # one way only, as a pipe
        for each in theirs[1:]:
            each.shutdown(socket.SHUT_RD)
        try:
            popen = subprocess.Popen(
                command,
                stdin=theirs[0].fileno(),
                stdout=theirs[1].fileno(),
                stderr=theirs[2].fileno(),
                env=env,
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        process = cls(popen)
        try:
            await process._connect(ours, limit)
        except BaseException:
            popen.kill()
            popen.wait()
            process._disconnect()
            _close(ours[len(process._streams) :])
            raise
        return process

    async def _connect(self, sockets: Sequence[socket.socket], limit: int) -> None:
        readers = []
        for each in sockets:
            reader, stream = await asyncio.open_unix_connection(sock=each, limit=limit)
            self._streams.append(stream)
            readers.append(reader)
        _, self.stdout, self.stderr = readers

    def _disconnect(self) -> None:
        for stream in self._streams:
            stream.close()

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        self._popen.kill()

    def write(self, data: bytes) -> None:
        """Send to its standard input; data for a process that has ended is lost."""
        self._streams[0].write(data)

    async def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        pause = SHORTEST_PAUSE_S
        while (code := self._popen.poll()) is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return code

    async def communicate(self) -> tuple[bytes, bytes]:
        """Close its input, read what is left of its outputs and wait for its end; it has no streams after that."""
        try:
            self._streams[0].close()
            output, errors = await asyncio.gather(self.stdout.read(), self.stderr.read())
            await self.wait()
            return output, errors
        finally:
            self._disconnect()


def _pairs(count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """Pairs of sockets: the one ends, and the other ends. All or none."""
    ours: list[socket.socket] = []
    theirs: list[socket.socket] = []
    try:
        for _ in range(count):
            one, other = socket.socketpair()
            ours.append(one)
            theirs.append(other)
    except OSError:
        _close([*ours, *theirs])
        raise
    return ours, theirs


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()
