"""A real server process, for the benchmarks and the tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

_ADDRESS = re.compile(r"http://[\d.]+:\d+")
_LONGEST_STOP_S = 60.0
PROGRAM = ("-m", "verl_atpo.search_qa.retriever")


class ServerProcess:
    """``python -m verl_atpo.search_qa.retriever`` on a loopback port that the system chooses.

    Attributes:
        url: where it serves, once it is ready.
        process: the process.
    """

    def __init__(self, *arguments: str, ready_s: float = 300.0, program: Sequence[str] = PROGRAM) -> None:
        """Start it and wait until it is ready.

        Args:
            *arguments: of its command line.
            ready_s: seconds that it may take.
            program: arguments of Python that start it.

        Raises:
            RuntimeError: it ended, or was not ready in time; with the end of its log.
        """
        self._log = tempfile.NamedTemporaryFile(suffix=".log")  # noqa: SIM115 (lives as long as the process)
        command = [sys.executable, *program, "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        self.url = ""
        deadline = time.monotonic() + ready_s
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.log()[-2000:]
                self.stop()
                raise RuntimeError(f"the server did not become ready (exit code {self.process.returncode}):\n{tail}")
            time.sleep(0.05)

    @property
    def serving(self) -> psutil.Process:
        """The process that serves: a child of the one that was started."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def log(self) -> str:
        """All it has said."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Ask it to stop and wait.

        Returns:
            Its exit code.
        """
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(_LONGEST_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.process.returncode

    def _ready(self) -> bool:
        address = _ADDRESS.search(self.log())
        if address is None:
            return False
        try:
            with urllib.request.urlopen(f"{address[0]}/health", timeout=1.0):
                self.url = address[0]
                return True
        except OSError:
            return False


@contextmanager
def running_server(
    *arguments: str, ready_s: float = 300.0, program: Sequence[str] = PROGRAM
) -> Iterator[ServerProcess]:
    """A server that is stopped at the end; arguments of :class:`ServerProcess`."""
    server = ServerProcess(*arguments, ready_s=ready_s, program=program)
    try:
        yield server
    finally:
        server.stop()
