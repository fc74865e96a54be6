"""Control of one sandboxed interpreter: start, code, limits, stops between calls, kill and reaping.

The process inside is not trusted. Its output counts as text of its own call only: a reply has to carry the call's
nonce, all other output is dropped, and the end of a call (time-out, crash) is observed from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import time

from async_timeout import timeout

from verl_atpo.tools.contract import ToolOutage
from verl_atpo.tools.python.config import Isolation, PythonConfig
from verl_atpo.tools.python.isolation import READY, WORKING_FOLDER, Sandbox
from verl_atpo.tools.python.process import Process
from verl_atpo.tools.python.watched import WatchedProcess, missing_names
from verl_atpo.tools.python.worker import Output

logger = logging.getLogger(__name__)

POLL_S = 0.1
PAGE_TABLES_MB = 16
"""Most page tables (MiB) that a full address space of 8 GiB uses; more of them come from scattered mappings."""
MISSING_NAMES = 100_000
"""Files that do not exist which a call may ask for: the kernel remembers each, with its name, in about half a KiB."""
LEAST_S_PER_NAME = 1e-6
"""CPU that asking for one takes at least, to tell a call that asks from others on the machine."""
REPLY_BYTES_PER_BYTE = 6
"""A byte of output takes at most this much in JSON, as an escaped control character."""
REPLY_FRAME_BYTES = 1000
MOST_STRAY_LINES = 100
"""Lines that are no reply to the call; each costs the event loop some microseconds."""
LEFT_OUT_BYTES = 60
"""Bytes that the note about omitted output may add."""
END_S = 2.0
"""Seconds that an interpreter that closed its channel may take to end."""
SHELL_SIGNAL_BASE = 128
"""Offset of a signal's number in the exit code of bwrap, which is that of a shell."""


class InterpreterLost(Exception):
    """The interpreter is gone, and its variables with it. The message is for the model."""


class Interpreter:
    """A running interpreter; made by :meth:`start`.

    Args:
        process: the child; with bubblewrap, the one that waits for the interpreter.
        worker: the interpreter itself.
        config: limits.
        isolation: its isolation.
    """

    def __init__(self, process: Process, worker: WatchedProcess, config: PythonConfig, isolation: Isolation) -> None:
        self._process = process
        self._worker = worker
        self._config = config
        self._counts_files = isolation is Isolation.BUBBLEWRAP and config.disk_mb > 0
        self._sealed = isolation is not Isolation.LIMITS_ONLY
        self._reply: asyncio.Task[str] | None = None
        self._reaping: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, sandbox: Sandbox, config: PythonConfig) -> Interpreter:
        """Start one and wait until it is locked in.

        Raises:
            ToolOutage: it did not start.
        """
        process: Process | None = None
        with contextlib.ExitStack() as open_files:
            try:
                information, end = os.pipe()
                open_files.callback(os.close, information)
                open_files.callback(os.close, end)
                os.set_blocking(information, False)
                process = await Process.start(
                    _command(sandbox, end),
                    env=sandbox.environment,
                    cwd="/proc" if sandbox.isolation is Isolation.LIMITS_ONLY else "/",  # nothing can be made there
                    pass_fds=[end] if sandbox.isolation is Isolation.BUBBLEWRAP else [],
                    limit=_longest_reply(config),
                )
                async with timeout(config.start_s):  # wait_for of Python 3.10 and 3.11 can lose a cancellation
                    if await process.stdout.readline() != READY:
                        raise OSError("it ended before it was ready")
                return cls(process, _worker(process, information, sandbox, config), config, sandbox.isolation)
            except BaseException as error:
                said = "" if process is None else await _discard(process)
                if isinstance(error, (OSError, asyncio.TimeoutError)):
                    raise ToolOutage(f"The Python sandbox could not be started: {error!r} {said}") from error
                raise

    @property
    def closed(self) -> bool:
        """True once it has been killed."""
        return self._reaping is not None

    async def run(self, code: str) -> str:
        """Run ``code``; returns its output.

        Raises:
            InterpreterLost: it went over a limit, or ended, and was killed.
            ToolOutage: this machine failed; it was killed.
        """
        nonce = secrets.token_hex(16)
        try:
            self._worker.send(signal.SIGCONT)
            self._process.write(json.dumps({"nonce": nonce, "code": code}).encode() + b"\n")
            output = await self._watched(nonce)
            self._worker.send(signal.SIGSTOP)  # nothing runs between calls
            self._check_files()
            return output
        except ProcessLookupError:
            raise InterpreterLost(await self._end()) from None
        except OSError as error:
            self.kill()
            raise ToolOutage(f"The Python sandbox failed: {error!r}") from error
        except BaseException:
            self.kill()
            raise

    async def close(self) -> None:
        """Kill it, and wait until nothing is left of it; safe to call again."""
        self.kill()
        assert self._reaping is not None
        await asyncio.shield(self._reaping)

    def kill(self) -> None:
        """Kill it at once; :meth:`close` still has to be awaited."""
        if self._reaping is None:
            self._worker.kill()
            if not self._sealed:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._reaping = asyncio.ensure_future(self._reap())

    async def _reap(self) -> None:
        if self._reply is not None:
            await asyncio.wait({self._reply})
        try:
            await asyncio.wait_for(self._process.communicate(), END_S if not self._sealed else None)
        except asyncio.TimeoutError:
            logger.error("Code that ran with limits only left processes running that hold its channel open.")
        finally:
            self._worker.close()

    async def _watched(self, nonce: str) -> str:
        """Wait for the reply, within the call's limits."""
        reply = self._reply = asyncio.ensure_future(self._read_reply(nonce))
        limits = self._config
        started, cpu_before, names_before = time.monotonic(), self._worker.cpu_s(), missing_names()
        try:
            while True:
                left = started + limits.wall_s - time.monotonic()
                await asyncio.wait({reply}, timeout=max(min(POLL_S, left), 0))
                if reply.done():
                    return reply.result()
                if left <= 0:
                    raise InterpreterLost(f"The code ran longer than {limits.wall_s:g} s and was stopped.")
                self._check_files()
                cpu_s = self._worker.cpu_s() - cpu_before
                self._check_kernel_memory(cpu_s, names_before)
                if cpu_s > limits.cpu_s:
                    raise InterpreterLost(f"The code used more than {limits.cpu_s:g} s of CPU time and was stopped.")
        finally:
            reply.cancel()

    async def _read_reply(self, nonce: str) -> str:
        received = 0
        for _ in range(MOST_STRAY_LINES):
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # longer than any reply
                break
            if not line:
                raise InterpreterLost(await self._end())
            received += len(line)
            if received > _longest_reply(self._config):
                break
            with contextlib.suppress(ValueError, RecursionError):
                message = json.loads(line)
                output = message.get("output") if isinstance(message, dict) and message.get("nonce") == nonce else None
                if isinstance(output, str):
                    return _bounded(output, self._config.output_bytes)
        raise InterpreterLost("The code wrote to file descriptors that are not its own, and was stopped.")

    async def _end(self) -> str:
        """Describe how an interpreter that closed its channel ended."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), END_S)
        code = self._process.returncode
        if code is None:
            return "The code closed file descriptors that are not its own, and was stopped."
        number = -code if code < 0 else code - SHELL_SIGNAL_BASE
        with contextlib.suppress(ValueError):
            return f"The interpreter crashed ({signal.Signals(number).name})."
        return f"The interpreter ended with exit code {code}."

    def _check_kernel_memory(self, cpu_s: float, names_before: int | None) -> None:
        """Stop code that makes the kernel hold memory which no limit of a process counts."""
        if self._worker.page_tables_kb() > PAGE_TABLES_MB << 10:
            raise InterpreterLost("The code scattered its memory over too many places and was stopped.")
        if names_before is None or cpu_s < MISSING_NAMES * LEAST_S_PER_NAME:
            return
        asked = (missing_names() or 0) - names_before
        if MISSING_NAMES < asked < cpu_s / LEAST_S_PER_NAME:
            raise InterpreterLost(
                f"The code asked for more than {MISSING_NAMES} files that do not exist and was stopped."
            )

    def _check_files(self) -> None:
        """Small files fill memory that the folder's size does not count."""
        if not self._counts_files:
            return
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            folder = os.statvfs(f"/proc/{self._worker.pid}/root{WORKING_FOLDER}")
            if folder.f_files - folder.f_ffree > self._config.files:
                raise InterpreterLost(f"The code made more than {self._config.files} files and was stopped.")


def _longest_reply(config: PythonConfig) -> int:
    """Compute the most bytes of a reply; stray lines count."""
    return config.output_bytes * REPLY_BYTES_PER_BYTE + REPLY_FRAME_BYTES


def _bounded(output: str, size: int) -> str:
    """Decode ``output`` to valid Unicode, no longer than the limit that an unmodified worker keeps."""
    data = output.encode("utf-8", "replace")
    if len(data) <= size + LEFT_OUT_BYTES:
        return data.decode()
    kept = Output(size)
    kept.write(data)
    return kept.text()


def _command(sandbox: Sandbox, information: int) -> list[str]:
    """Return program and arguments; bwrap reports its child on ``information``."""
    program, *arguments = sandbox.command
    report = ["--info-fd", str(information)] if sandbox.isolation is Isolation.BUBBLEWRAP else []
    return [program, *report, *arguments]


def _worker(process: Process, information: int, sandbox: Sandbox, config: PythonConfig) -> WatchedProcess:
    """Return the interpreter itself: with bubblewrap the reported child, else the process."""
    wrapped = sandbox.isolation is Isolation.BUBBLEWRAP
    worker = WatchedProcess(json.loads(os.read(information, 10_000))["child-pid"] if wrapped else process.pid)
    try:
        worker.stand_back(config.niceness)
    except BaseException:
        worker.close()
        raise
    return worker


async def _discard(process: Process) -> str:
    """Kill a process that failed to start, with its children; returns the end of its error output."""
    process.kill()
    _, errors = await asyncio.shield(asyncio.ensure_future(process.communicate()))
    return errors.decode(errors="replace").strip()[-500:]
