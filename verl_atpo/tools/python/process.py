"""A child process whose pipes are read by the event loop, started in a way that is safe where there are threads.

``subprocess.Popen`` starts it: between fork and exec it runs no Python. An event loop's own way may: uvloop's, which
Ray workers use, re-initialises the interpreter in the child, and stops there for ever if another thread (gRPC has many)
held a lock of the interpreter when the process was forked. It is started by the loop's thread, because a parent's death
means the death of the thread to the kernel (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.05


class Process:
    """A running child; made by :meth:`start`.

    Attributes:
        pid: its process id.
        stdout, stderr: what it writes.
    """

    def __init__(self, popen: subprocess.Popen[bytes], limit: int) -> None:
        self._popen = popen
        self._stdin: asyncio.WriteTransport | None = None
        self._readers: list[asyncio.ReadTransport] = []
        self.pid = popen.pid
        self.stdout, self.stderr = asyncio.StreamReader(limit), asyncio.StreamReader(limit)

    @classmethod
    async def start(
        cls, command: Sequence[str], *, env: dict[str, str], cwd: str, pass_fds: Sequence[int], limit: int
    ) -> Process:
        """Start ``command`` in a session of its own.

        Args:
            command: program and arguments.
            env: all of its environment.
            cwd: its working folder.
            pass_fds: file descriptors that it inherits, besides its pipes.
            limit: bytes of the longest line.

        Raises:
            OSError: it cannot be started.
        """
        pipe = subprocess.PIPE
        popen = subprocess.Popen(
            command,
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        process = cls(popen, limit)
        try:
            await process._connect()
        except BaseException:
            popen.kill()
            popen.wait()
            process._disconnect()
            raise
        return process

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for reader, pipe in ((self.stdout, self._popen.stdout), (self.stderr, self._popen.stderr)):
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(lambda protocol=protocol: protocol, pipe)  # type: ignore[misc]
            self._readers.append(transport)
        self._stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self._popen.stdin)

    def _disconnect(self) -> None:
        for transport in (*self._readers, self._stdin):
            if transport is not None:
                transport.close()
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    def write(self, data: bytes) -> None:
        """Send to its standard input."""
        assert self._stdin is not None
        self._stdin.write(data)

    async def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        pause = SHORTEST_PAUSE_S
        while (code := self._popen.poll()) is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return code

    async def communicate(self) -> tuple[bytes, bytes]:
        """Close its input, read what is left of its outputs and wait for its end."""
        assert self._stdin is not None
        self._stdin.close()
        output, errors = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return output, errors
