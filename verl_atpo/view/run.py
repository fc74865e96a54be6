"""One run's folder as the pages see it: its metric files, and an index that another process keeps up to date.

The pages' own process only reads the index: making it takes minutes of CPU in a big run, and no page waits for that.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sqlite3
import time
from multiprocessing.connection import Connection
from pathlib import Path

from verl_atpo.report.dump_reader import dump_files
from verl_atpo.view.index import TreeIndex
from verl_atpo.view.metrics import MetricFiles

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between looks at the folder."""
TROUBLED_S = 5.0
"""Seconds until the next look after one that failed."""


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
        self._context = multiprocessing.get_context("spawn")
        self._follower: multiprocessing.process.BaseProcess | None = None
        self._news: Connection | None = None
        self._trouble = ""

    @property
    def name(self) -> str:
        """Name of the run on the pages."""
        return self.folder.name or str(self.folder)

    def start(self) -> None:
        """Begin to follow the folder."""
        self._news, news = self._context.Pipe(duplex=False)
        self._follower = self._context.Process(
            target=follow, args=(self.folder, self.index.path.parent, news), name="verl_atpo-index", daemon=True
        )
        self._follower.start()
        news.close()

    def stop(self) -> None:
        """End it; a batch that is being read is left out, and read by the next start."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.terminate()
            follower.join()

    def trouble(self) -> str:
        """Reason for which the index does not follow the run at present; empty where it does.

        A process that follows no more, because it was killed for instance, is started again.
        """
        if self._follower is None:
            return ""
        with contextlib.suppress(EOFError, OSError):
            while self._news is not None and self._news.poll():
                self._trouble = str(self._news.recv())
        if not self._follower.is_alive():
            logger.warning("The process that indexes %s ended (code %s): started again", self.folder,
                           self._follower.exitcode)  # fmt: skip
            self.start()
        return self._trouble


def follow(folder: Path, cache: Path, news: Connection) -> None:
    """Keep a folder's index up to date, in a process of low priority of its own that ends with its parent.

    Args:
        folder: the run's.
        cache: folder of the index.
        news: receives each trouble as text, and an empty text when it is over.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches both processes: the parent ends this one
    os.nice(10)
    parent = multiprocessing.parent_process()
    assert parent is not None
    index: TreeIndex | None = None
    reported = ""
    while parent.is_alive():
        busy, trouble = False, ""
        try:
            index = index or TreeIndex(folder, cache)
            index.update()
            busy = bool(index.add_words())
        except OSError as error:  # a file went away between two looks, or a disk is out of reach for a while
            trouble = f"{type(error).__name__}: {error}"
        except sqlite3.Error as error:
            trouble = f"the index in {cache} cannot be written ({error}): free space there, or start with --cache"
        except Exception as error:  # an unexpected kind of line must not end it
            logger.exception("Indexing %s continues after an error", folder)
            trouble = f"{type(error).__name__}: {error}"
        if trouble != reported:
            reported = trouble
            with contextlib.suppress(OSError):
                news.send(trouble)
        parent.join(0.0 if busy else TROUBLED_S if trouble else LOOK_S)


def newest(run: Run) -> float:
    """Return the time of the run's last write, as seconds since the epoch; 0 where there is none."""
    times = [run.metrics.changed_s]
    with contextlib.suppress(OSError):
        times += [path.stat().st_mtime for path in dump_files(run.folder)]
    return max(times)


def idle_s(run: Run) -> float | None:
    """Seconds since the run last wrote anything; ``None`` where it has not."""
    last = newest(run)
    return max(0.0, time.time() - last) if last else None
