"""One run's folder as the pages see it: its index, which a process keeps up to date, and verl's metric files.

The pages' own process only reads the index: to make it takes minutes of CPU in a big run, and no page waits for that.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from pathlib import Path

from verl_atpo.report.metrics_file import find_metrics, read_steps
from verl_atpo.view.files import DEPTH
from verl_atpo.view.index import TreeIndex

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between looks at the folder."""


class MetricFiles:
    """What verl's logger ``file`` wrote, one file for each start of the run; read again when there is more.

    Args:
        folder: the run's; the files are found by how their first line looks.
        path: the file, where it is not in the folder.

    Attributes:
        series: steps and values by metric.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self._folder, self._path = folder, path
        self._sizes: dict[Path, int] = {}
        self.series: dict[str, list[tuple[int, float]]] = {}

    def update(self) -> None:
        """Read the files, if there is something new in them."""
        files = [self._path] if self._path is not None else find_metrics(self._folder, DEPTH)
        sizes = {file: file.stat().st_size for file in files if file.exists()}
        if sizes == self._sizes:
            return
        series: dict[str, list[tuple[int, float]]] = {}
        for step, data in read_steps(*sizes):
            for name, value in data.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    series.setdefault(name, []).append((step, float(value)))
        self._sizes, self.series = sizes, series


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
        self.metrics = MetricFiles(self.folder, metrics)
        self._follower = multiprocessing.get_context("spawn").Process(
            target=follow, args=(self.folder, self.index.path.parent), name="verl_atpo-index", daemon=True
        )

    @property
    def name(self) -> str:
        """What the pages call it."""
        return self.folder.name or str(self.folder)

    def start(self) -> None:
        """Begin to follow the folder."""
        self._follower.start()

    def stop(self) -> None:
        """End it; a batch that is being read is left out, and read by the next start."""
        self._follower.terminate()
        self._follower.join()


def follow(folder: Path, cache: Path) -> None:
    """Keep a folder's index up to date, in a process of its own that steps back for pages and ends with its parent.

    Args:
        folder: the run's.
        cache: folder of the index.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches both processes: the parent ends this one
    os.nice(10)
    index, parent = TreeIndex(folder, cache), multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive():
        try:
            index.update()
            busy = bool(index.add_words())
        except OSError as error:  # a file went away between two looks, or a disk is out of reach for a while
            logger.warning("Looking at %s again: %s", folder, error)
            busy = False
        parent.join(0.0 if busy else LOOK_S)
