"""Trees as JSON lines, one tree a line (``report/record.py`` has the schema), for the viewer and for scripts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from verl_atpo.report.dump_choice import take_mark
from verl_atpo.report.dump_file import DumpFile
from verl_atpo.report.plain_json import json_line, plain
from verl_atpo.report.record import Record, Summary, TrajectoryRecord

logger = logging.getLogger(__name__)


class TreeDump:
    """Write the records of one rollout worker. A tree that cannot be described or written is skipped; none fails.

    Args:
        folder: made when missing; every worker has files of its own in it. ``None``: records are made, not written.

    Attributes:
        seconds: CPU time of dumping since this was last set to 0.
        skipped: trees that could not be described.
    """

    def __init__(self, folder: str | None) -> None:
        self._file = DumpFile(Path(folder)) if folder else None
        self.seconds = 0.0
        self.skipped = 0
        self._start: str | None = None
        self._thread = ThreadPoolExecutor(1, "atpo-dump")  # asyncio's own threads may all wait for tools

    def takes(self, prompt: dict[str, Any]) -> bool:
        """Return whether the tree of a prompt is dumped, and take the mark of :class:`DumpChoice` off the prompt."""
        chosen, start = take_mark(prompt)
        self._start = start or self._start
        return chosen

    async def write(self, describe: Callable[[], Record]) -> Record | None:
        """Make a record and append it, on another thread than the event loop's.

        Args:
            describe: makes it.

        Returns:
            The record; ``None`` if it could not be made.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, describe)

    def _write(self, describe: Callable[[], Record]) -> Record | None:
        started = time.thread_time()
        try:
            return self._append(describe())
        except Exception:  # rows are published by now: status and rows must not disagree because of a dump
            self.skipped += 1
            if self.skipped.bit_count() == 1:  # the first, second, fourth, eighth, ...
                logger.exception("A tree could not be dumped (%d so far); training continues", self.skipped)
            return None
        finally:
            self.seconds += time.thread_time() - started

    def _append(self, record: Record) -> Record:
        record = _with_plain_extras(record)
        if self._start is not None:
            record["start"] = self._start
            record["summary"] = Summary(**{**record["summary"], "start": self._start})
        if self._file is not None:
            self._file.append(json_line(record))
        return record


def _with_plain_extras(record: Record) -> Record:
    """Make JSON of the fields that hold what a user's data and reward function made."""
    trajectories = [
        TrajectoryRecord(**{**trajectory, "reward_extra": plain(trajectory["reward_extra"])})
        if "reward_extra" in trajectory
        else trajectory
        for trajectory in record.get("trajectories") or []
    ]
    made = Record(**{**record, "trajectories": trajectories})
    for name in ("data_source", "ground_truth", "extra_info"):
        if name in made:
            made[name] = plain(made[name])
    return made
