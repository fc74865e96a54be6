"""A command line and the processes that it starts: one group, output in files, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from verl_atpo.gateway.settings import GatewayConfig

if TYPE_CHECKING:
    from verl_atpo.gateway.agents import Access

logger = logging.getLogger(__name__)

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE")
"""Variables of the worker that a command sees; others may hold secrets of the training run."""
ENDED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.05


def killed(code: int) -> bool:
    """Return whether an exit code, a shell's included, is that of a program ended from outside."""
    return -code in ENDED_FROM_OUTSIDE or code - 128 in ENDED_FROM_OUTSIDE


def command_environment(further: Mapping[str, str], access: Access, task: Path, result: Path) -> dict[str, str]:
    """Make all variables that a command sees."""
    root = access.base_url.removesuffix("/v1")
    ours = {
        "OPENAI_BASE_URL": access.base_url,
        "OPENAI_API_KEY": access.api_key,
        "OPENAI_MODEL": access.model,
        "ANTHROPIC_BASE_URL": root,
        "ANTHROPIC_API_KEY": access.api_key,
        "ANTHROPIC_MODEL": access.model,
        "TASK_FILE": str(task),
        "RESULT_FILE": str(result),
    }
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**inherited, "NO_PROXY": "127.0.0.1,localhost", "PYTHONHASHSEED": "0", **further, **ours}


class GroupProcess:
    """A running command; to be ended by :meth:`end`.

    Args:
        command: program and arguments.
        environment: all of its variables.
        folder: its working folder.
        logs: folder for its output.
        mark: a value in its environment that no other process has, by which what left its group is found.
        config: limits of the kept output and of the time to end.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        logs: Path,
        mark: str,
        config: GatewayConfig,
    ) -> None:
        self._files = [logs / "output", logs / "errors"]
        self._mark, self._config = mark, config
        setpriv = shutil.which("setpriv")
        prefix = [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]
        if shutil.which(command[0], path=environment.get("PATH")) is None and not (folder / command[0]).is_file():
            raise FileNotFoundError("there is no such program")
        output, errors = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in self._files)
        try:
            self._popen = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
        finally:
            os.close(output)
            os.close(errors)

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        pause = SHORTEST_PAUSE_S
        while (code := self._popen.poll()) is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            self._bound()
        return code

    async def end(self) -> None:
        """End it and all that it started: asked first, killed after the time of grace."""
        if self._popen.poll() is None:
            self._signal(signal.SIGTERM)
            until = time.monotonic() + self._config.grace_s
            while self._popen.poll() is None and time.monotonic() < until:
                await asyncio.sleep(LONGEST_PAUSE_S)
        self._signal(signal.SIGKILL)
        self._popen.wait()
        await asyncio.to_thread(self._end_strays)

    def last_output(self) -> str:
        """Return the end of its output, errors first."""
        texts = [self._tail(path) for path in reversed(self._files)]
        return "\n".join(text for text in texts if text) or "(none)"

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    def _end_strays(self) -> None:
        """Kill processes that left the group, such as daemons: all with this trajectory's key in their environment."""
        for _ in range(3):
            strays = [process for process in psutil.process_iter() if _has(process, self._mark)]
            for process in strays:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            if not strays:
                return
            psutil.wait_procs(strays, timeout=1)
        logger.error("Processes of an ended agent cannot be killed: %s", [process.pid for process in strays])

    def _bound(self) -> None:
        """Cut output that grows without end; the files are written at their ends, so the command notices nothing."""
        for path in self._files:
            if path.stat().st_size > 16 * self._config.output_bytes:
                kept = self._tail(path)
                os.truncate(path, 0)
                with path.open("a", encoding="utf-8") as file:
                    file.write(kept)

    def _tail(self, path: Path) -> str:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - self._config.output_bytes))
            return file.read().decode(errors="replace").strip()


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return mark in process.environ().values()
    except (psutil.Error, OSError):
        return False
