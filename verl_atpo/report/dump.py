"""Trees as JSON lines, one tree a line (``report/record.py`` has the schema), for the viewer and for scripts."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verl_atpo.report.dump_file import DumpFile
from verl_atpo.report.record import Record

logger = logging.getLogger(__name__)


class TreeDump:
    """Writes the records of one rollout worker. What goes wrong here ends dumping, never a tree.

    Args:
        folder: made when missing; every worker has files of its own in it. ``None``: records are made, not written.

    Attributes:
        seconds: CPU time that it took since it was last set to 0.
    """

    def __init__(self, folder: str | None) -> None:
        self._file = DumpFile(Path(folder)) if folder else None
        self._broken = False
        self.seconds = 0.0
        self._lock = asyncio.Lock()

    async def write(self, describe: Callable[[], Record]) -> Record | None:
        """Make a record, beside the event loop, and append it.

        Args:
            describe: makes it.

        Returns:
            The record; ``None`` if it could not be made.
        """
        async with self._lock:
            return await asyncio.to_thread(self._write, describe)

    def _write(self, describe: Callable[[], Record]) -> Record | None:
        if self._broken:
            return None
        started = time.thread_time()
        try:
            return self._append(describe())
        except Exception:  # rows are published by now: status and rows must not disagree because of a picture of them
            self._broken = True
            logger.exception("A tree could not be described: no further trees are dumped; training goes on")
            return None
        finally:
            self.seconds += time.thread_time() - started

    def _append(self, record: Record) -> Record:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=plain)
        if self._file is not None:
            self._file.append(line.encode("utf-8", "replace") + b"\n")
        return record


def plain(value: Any) -> Any:
    """What JSON does not know: numbers and arrays of numpy and torch as numbers and lists, everything else as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
