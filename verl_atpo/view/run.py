"""One run's folder as the pages see it: its index, which a thread keeps up to date, and verl's metric file."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

from verl_atpo.view.files import DEPTH
from verl_atpo.view.index import TreeIndex

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between looks at the folder."""


class MetricFile:
    """What verl's logger ``file`` wrote, read as it grows: a line a step, ``{"step": .., "data": {metric: value}}``.

    Args:
        folder: the run's; the file is found by how its first line looks.
        path: the file, where it is not in the folder.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self._folder, self._path = folder, path
        self._done = 0
        self.series: dict[str, list[tuple[int, float]]] = {}

    def update(self) -> None:
        """Read the lines that were added; a file that became shorter is read anew."""
        if self._path is None:
            self._path = self._find()
        if self._path is None or not self._path.exists():
            return
        if self._path.stat().st_size < self._done:
            self._done, self.series = 0, {}
        with self._path.open("rb") as file:
            file.seek(self._done)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._done += len(whole)
        for line in whole.splitlines():
            self._add(line)

    def _add(self, line: bytes) -> None:
        entry = _entry(line)
        if entry is None:
            return
        for name, value in entry["data"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.series.setdefault(name, []).append((entry["step"], float(value)))

    def _find(self) -> Path | None:
        for depth in range(DEPTH):
            for path in sorted(self._folder.glob("*/" * depth + "*.jsonl")):
                with path.open("rb") as file:
                    if _entry(file.readline(1 << 20)) is not None:
                        return path
        return None


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    right = isinstance(entry, dict) and isinstance(entry.get("step"), int) and isinstance(entry.get("data"), dict)
    return entry if right else None


class Run:
    """A run that is being looked at.

    Args:
        folder: with dumps, in it or below, and perhaps verl's metric file.
        cache: folder of the index; by default the user's.
        metrics: verl's metric file, where it is elsewhere.
    """

    def __init__(self, folder: Path, cache: Path | None = None, metrics: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.index = TreeIndex(self.folder, cache)
        self.metrics = MetricFile(self.folder, metrics)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="verl_atpo-index", daemon=True)

    @property
    def name(self) -> str:
        """What the pages call it."""
        return self.folder.name or str(self.folder)

    def start(self) -> None:
        """Begin to follow the folder."""
        self._thread.start()

    def stop(self) -> None:
        """End it, after the batch that is being read."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.index.update()
                busy = bool(self.index.add_words())
            except OSError as error:  # a file went away between two looks, or a disk is out of reach for a while
                logger.warning("Looking at %s again: %s", self.folder, error)
                busy = False
            self._stop.wait(0.0 if busy else LOOK_S)
