"""Watch over rollout workers: the prompts of one that died or is stuck fail, so that the trainer never waits.

verl's trainer hands prompts to the workers without waiting and then looks for prompts that have ended. Those of a
worker that died (out of memory, a lost node) or whose event loop is blocked would never end. A thread of the trainer's
process notices it, ends a stuck worker, and marks its prompts as failed by verl's own protocol; the
trainer's wait then ends, and the run ends with the reason.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import ray
import transfer_queue as tq

from verl_atpo.rollout.health.stop import Failures

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
ANSWER_S = 5.0
"""Seconds that a worker may take to report its state, before the next one is asked."""
UNFINISHED = ("pending", "running")


class WorkerWatch:
    """Watches the workers of one manager.

    Args:
        limit_s: seconds that a worker may be silent (a function that holds Python's global lock, a process that was
            stopped); ``None`` for no limit.
        interval_s: seconds between looks.

    Attributes:
        stuck: why a worker had to be ended; ``None`` while all are well.
    """

    def __init__(self, limit_s: float | None = None, interval_s: float = INTERVAL_S) -> None:
        self.stuck: str | None = None
        self._limit_s = limit_s
        self._interval_s = interval_s
        self._held: dict[Any, set[str]] = defaultdict(set)
        self._silent_s: dict[Any, float] = {}  # of those that have answered once: making a worker takes its time
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hold(self, worker: Any, uids: Iterable[str]) -> None:
        """Note that ``worker`` gets these prompts; starts the watch with the first."""
        with self._lock:
            self._held[worker].update(uids)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="verl_atpo-workers", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._interval_s):
            for worker in list(self._held):
                self._look_at(worker)

    def _look_at(self, worker: Any) -> None:
        failures, error = health_of(worker)
        if failures is not None:
            self._silent_s[worker] = 0.0
        elif worker in self._silent_s:
            self._silent_s[worker] += self._interval_s + ANSWER_S
        if error is None:
            stuck = self._stuck(worker, failures)
            if stuck is None:
                return
            self.stuck = stuck
            ray.kill(worker)
        with self._lock:
            uids = self._held.pop(worker)
        given_up = fail_unfinished(uids)
        logger.error(
            "A rollout worker %s; %d prompts it held have failed: %s",
            "made no progress and was ended" if error is None else "died",
            len(given_up),
            error or self.stuck,
        )

    def _stuck(self, worker: Any, failures: Failures | None) -> str | None:
        if failures is not None:
            return failures.fatal if failures.stuck else None
        silent_s = self._silent_s.get(worker, 0.0)
        if self._limit_s is None or silent_s < self._limit_s:
            return None
        return (
            f"A rollout worker has not answered for {silent_s:.0f} s: a function in it holds Python's global lock, or "
            "its process was stopped. Remedy: run such code in a process of its own, or raise "
            f"algorithm.atpo.watch.limit_s={self._limit_s:g}."
        )


def health_of(worker: Any) -> tuple[Failures | None, Exception | None]:
    """Ask a worker for its state: its answer, or why it is dead; neither while it cannot be reached."""
    try:
        return ray.get(worker.failures.remote(), timeout=ANSWER_S), None
    except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
        return None, None
    except ray.exceptions.RayError as error:  # ActorDiedError, but OutOfMemoryError too, which is no RayActorError
        return None, error


def fail_unfinished(uids: Iterable[str]) -> Sequence[str]:
    """Mark those of the prompts that have not ended as failed; returns them."""
    wanted, failed = set(uids), []
    for partition, tags in tq.kv_list().items():
        for uid in wanted & tags.keys():
            if tags[uid].get("status") in UNFINISHED:
                tq.kv_put(key=uid, partition_id=partition, tag={"status": "failure"})
                failed.append(uid)
    return failed
