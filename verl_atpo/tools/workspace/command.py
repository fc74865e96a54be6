"""One command in its isolation: started, watched, its output taken, everything that it started ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable

from verl_atpo.failure import ToolOutage
from verl_atpo.tools.workspace.contract import Completed
from verl_atpo.tools.workspace.output import Excerpt
from verl_atpo.tools.workspace.starter import READY

logger = logging.getLogger(__name__)

FIRST_CHECK_S = 0.02
CHECKS_SHARE = 20
"""A check is repeated after this many times the CPU time that it took, so that checks take little of a core."""
LONGEST_PAUSE_S = 0.5
END_S = 10.0
"""Seconds that a killed command may take to be gone."""
_CHUNK = 1 << 16
_ERRORS_BYTES = 4000
Start = Callable[[int, contextlib.ExitStack], tuple[list[str], list[int]]]
Check = Callable[[int | None], str | None]
"""Returns why a command has to be stopped, if it has; is given the first process inside, None if it is not known."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Limits of one command that are watched from outside.

    Attributes:
        wall_s: seconds.
        output_bytes: most bytes of its output to return.
        written_bytes: output after which it is stopped.
        start_s: seconds until it has to run.
    """

    wall_s: float
    output_bytes: int
    written_bytes: int
    start_s: float


class Command:
    """A running command.

    Args:
        start: makes program, arguments and inherited descriptors for the one that the isolation reports or waits on.
        environment: all of its variables.
        cwd: where it starts.
        stdin: its input.
        reports: whether the isolation reports the process inside, as bubblewrap does.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        start: Start,
        environment: dict[str, str],
        cwd: str,
        stdin: bytes,
        reports: bool,
    ) -> None:
        self._reports, self._reported = reports, b""
        self._pid: int | None = None
        self._inside: int | None = None
        self._said = bytearray()
        with contextlib.ExitStack() as theirs:
            self._output, output = _pipe(theirs)
            self._errors, errors = _pipe(theirs)
            reading, writing = os.pipe()
            self._link, given = (reading, writing) if reports else (writing, reading)
            theirs.callback(os.close, given)
            os.set_blocking(self._link, False)
            source = theirs.enter_context(tempfile.TemporaryFile())
            source.write(stdin)
            source.seek(0)
            try:
                arguments, inherited = start(given, theirs)
                self._process = subprocess.Popen(
                    arguments,
                    stdin=source,
                    stdout=output,
                    stderr=errors,
                    env=environment,
                    cwd=cwd,
                    pass_fds=inherited,
                    start_new_session=True,
                )
            except BaseException:
                self._close()
                raise

    def run(self, bounds: Bounds, check: Check) -> Completed:
        """Wait for the end, within the limits.

        Args:
            bounds: the limits.
            check: looks at its processes and files, from time to time.

        Raises:
            ToolOutage: the isolation did not start.
        """
        self._excerpt = Excerpt(bounds.output_bytes)
        try:
            stopped = self._watch(bounds, check)
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired as error:
            raise ToolOutage("The processes of a command in a workspace cannot be ended.") from error
        finally:
            self._kill()
            self._close()
        if not self._ready:
            said = self._said.decode(errors="replace").strip()[-500:]
            raise ToolOutage(f"The workspace's isolation could not be started (exit code {code}): {said}")
        return Completed(self._excerpt.bytes(), None if stopped else code if code >= 0 else 128 - code, stopped)

    @property
    def _ready(self) -> bool:
        return self._said.startswith(READY)

    def _watch(self, bounds: Bounds, check: Check) -> str | None:
        """Take the output until the command has ended; returns why it was stopped, if it was."""
        since, next_check, stopped, was_ready = time.monotonic(), time.monotonic() + FIRST_CHECK_S, None, False
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._output, self._errors, *([self._link] if self._reports else ())):
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map() or self._process.poll() is None:
                for key, _ in selector.select(max(min(next_check - time.monotonic(), LONGEST_PAUSE_S), 0.001)):
                    self._take(key.fd, selector)
                now = time.monotonic()
                if self._ready and not was_ready:
                    since, was_ready = now, True  # its time begins
                if stopped is not None and now > since + END_S:
                    raise subprocess.TimeoutExpired(self._process.args, END_S)
                if stopped is None and now >= next_check:
                    began = time.thread_time()
                    stopped = self._reason(now - since, bounds, check)
                    next_check = time.monotonic() + max(FIRST_CHECK_S, CHECKS_SHARE * (time.thread_time() - began))
                    if stopped is not None:
                        self._kill()
                        since = now
        return stopped

    def _take(self, descriptor: int, selector: selectors.BaseSelector) -> None:
        data = os.read(descriptor, _CHUNK)
        if not data:
            selector.unregister(descriptor)
        elif descriptor == self._output:
            self._excerpt.write(data)
        elif descriptor == self._errors:
            self._said += data[: max(_ERRORS_BYTES - len(self._said), 0)]
        else:
            self._reported += data
            with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
                self._pid = json.loads(self._reported)["child-pid"]
                self._inside = os.pidfd_open(self._pid)

    def _reason(self, seconds: float, bounds: Bounds, check: Check) -> str | None:
        if seconds > (bounds.wall_s if self._ready else bounds.start_s):
            return f"The command ran longer than {bounds.wall_s:g} s and was stopped."
        if self._excerpt.written > bounds.written_bytes:
            return f"The command wrote more than {bounds.written_bytes >> 20} MiB of output and was stopped."
        if not self._ready:
            return None
        return check(self._process.pid if not self._reports else self._pid)

    def _kill(self) -> None:
        """End the command and all that it started; safe to call again."""
        if self._reports:
            if self._inside is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._inside, signal.SIGKILL)
            else:
                self._process.kill()
        elif self._link >= 0:
            os.close(self._link)
            self._link = -1

    def _close(self) -> None:
        for descriptor in (self._output, self._errors, self._link, self._inside):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._link = self._inside = -1


def _pipe(theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Return our end and the other's, which is closed with ``theirs``."""
    reading, writing = os.pipe()
    theirs.callback(os.close, writing)
    return reading, writing
