"""File with the state of a run: its process, its command, and how it ended."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from verl_atpo.report.secrets import masked_command

NAME = "atpo_run.json"


def start_name(milliseconds: int) -> str:
    """Name the start of a run by its time since the epoch, in UTC: ``20261130-120301-042``."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y%m%d-%H%M%S}-{rest:03d}"


@dataclasses.dataclass(frozen=True)
class RunFile:
    """A start of a run.

    Attributes:
        start: its name.
        pid: process of the driver.
        host: machine of the driver.
        command: the typed command, without its secrets.
        began: seconds since the epoch.
        steps: training steps of the run; None where only the trainer knows.
        resumed: step of the checkpoint that it continued from; None for a fresh run.
        dump_dir: folder of its trees.
        ended: way in which it ended, ``completed``, ``failed: ...`` or ``stopped``; None while it is unknown.
    """

    start: str
    pid: int
    host: str
    command: Sequence[str]
    began: float
    steps: int | None = None
    resumed: int | None = None
    dump_dir: str | None = None
    ended: str | None = None

    def write(self, folder: Path) -> None:
        """Write the file into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / NAME
        part = file.with_suffix(".part")
        part.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        part.replace(file)

    @property
    def lives(self) -> bool | None:
        """Return whether the driver runs; None where it is on another machine."""
        if self.ended is not None:
            return False
        if self.host != socket.gethostname():
            return None
        return lives(self.pid, self.began)

    @property
    def state(self) -> str:
        """Describe the state of the run."""
        if self.ended is not None:
            return self.ended
        return {True: "running", False: "died without a message", None: f"on {self.host}"}[self.lives]


def lives(pid: int, began: float | None = None) -> bool:
    """Return whether a process exists and has not ended.

    Args:
        pid: its number.
        began: time at which it reported that it runs; a process that started later merely reuses the number.
    """
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and (began is None or process.create_time() <= began + 1)
    except psutil.NoSuchProcess:
        return False


def this_start(
    command: Sequence[str], steps: int | None = None, resumed: int | None = None, dump_dir: str | None = None
) -> RunFile:
    """Make the record of a run that this process has just started."""
    began = time.time()
    name, host = start_name(int(1000 * began)), socket.gethostname()
    return RunFile(name, os.getpid(), host, masked_command(command), began, steps, resumed, dump_dir)


def find_run(folder: Path, depth: int = 4) -> RunFile | None:
    """Find the latest start of a run whose file is in a folder or below; None where there is none."""
    files = [file for below in range(depth) for file in folder.glob("*/" * below + NAME)]
    runs = [run for file in files if (run := read_run(file)) is not None]
    return max(runs, key=lambda run: run.began, default=None)


def read_run(file: Path) -> RunFile | None:
    """Read the file of a run; None where it cannot be read."""
    try:
        content = json.loads(file.read_text())
        names = {field.name for field in dataclasses.fields(RunFile)}
        return RunFile(**{key: value for key, value in content.items() if key in names})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
