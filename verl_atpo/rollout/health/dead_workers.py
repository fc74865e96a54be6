"""Rollout workers that die must not leave the trainer waiting: the prompts they held fail, by verl's own protocol.

verl's trainer hands prompts to the workers without waiting and then looks for prompts that have ended. Those of a
worker that died (out of memory, a lost node) would never end. A thread of the trainer's process notices the death and
marks them as failed; verl then goes on without them, and ends with Ray's error when it needs that worker again.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import ray
import transfer_queue as tq

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
UNFINISHED = ("pending", "running")


class WorkerWatch:
    """Watches the workers of one manager.

    Args:
        interval_s: seconds between looks.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._held: dict[Any, set[str]] = defaultdict(set)
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
                if error := death_of(worker):
                    with self._lock:
                        uids = self._held.pop(worker)
                    given_up = fail_unfinished(uids)
                    logger.error("A rollout worker died; %d prompts it held have failed: %s", len(given_up), error)


def death_of(worker: Any) -> Exception | None:
    """Why the actor is dead, or None while it is alive, busy or out of reach for the moment."""
    try:
        ray.get(worker.__ray_ready__.remote(), timeout=1.0)
    except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
        return None
    except ray.exceptions.RayError as error:  # ActorDiedError, but OutOfMemoryError too, which is no RayActorError
        return error
    return None


def fail_unfinished(uids: Iterable[str]) -> Sequence[str]:
    """Mark those of the prompts that have not ended as failed; returns them."""
    wanted, failed = set(uids), []
    for partition, tags in tq.kv_list().items():
        for uid in wanted & tags.keys():
            if tags[uid].get("status") in UNFINISHED:
                tq.kv_put(key=uid, partition_id=partition, tag={"status": "failure"})
                failed.append(uid)
    return failed
