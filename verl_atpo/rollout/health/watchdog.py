"""A watchdog on a thread of its own: it notices code that makes no progress, even with a blocked event loop.

It counts only time in which it ran itself, so a machine that was suspended or has too few cores sets off no alarm.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from verl_atpo.config import WatchConfig
from verl_atpo.deadlines.activity import Activity, running, stack_of_thread

logger = logging.getLogger(__name__)

LONGEST_LOOK_S = 1.0
BLOCKED_WARN_S = 10.0
"""Seconds after which a blocked event loop is logged, if ``watch.warn_s`` is longer: it stops all trajectories."""
KEEP = "algorithm.atpo.watch.limit_s"


@dataclasses.dataclass
class _Seen:
    """Stall of an activity: seconds since its last progress, and whether it is logged."""

    moves: int
    stalled_s: float = 0.0
    reported: bool = False


class Watchdog:
    """Watches all watched activities of the process and, if there is one, an event loop.

    Args:
        config: when to log, and when to give up.
        loop: the event loop of the current thread.
        at_work: whether anything waits for the event loop, so that its end is a failure.

    Attributes:
        stuck: why nothing more is to be expected of this process, with the remedy; ``None`` while all is well.
    """

    def __init__(
        self,
        config: WatchConfig,
        loop: asyncio.AbstractEventLoop | None = None,
        at_work: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stuck: str | None = None
        self.loop = loop
        self._config = config
        self._at_work = at_work
        self._loop_thread = threading.get_ident()
        self._look_s = min(LONGEST_LOOK_S, config.warn_s / 4, (config.limit_s or LONGEST_LOOK_S) / 4)
        self._warn_blocked_s = min(config.warn_s, BLOCKED_WARN_S)
        self._seen: dict[Activity, _Seen] = {}
        self._silent_s = 0.0
        self._reported = False
        self._answered = threading.Event()

    def start(self) -> None:
        """Begin to watch, until the event loop or the process ends."""
        self._answered.set()
        threading.Thread(target=self._watch, name="verl_atpo-watchdog", daemon=True).start()

    def _watch(self) -> None:
        pause, last = threading.Event(), time.monotonic()
        while not pause.wait(self._look_s):
            now = time.monotonic()
            passed, last = min(now - last, 2 * self._look_s), now
            if self.loop is not None and not self._look_at_loop(self.loop, passed):
                return
            if self._silent_s == 0.0:  # else nothing can continue
                for activity in self._watched():
                    self._look_at(activity, passed)

    def _watched(self) -> list[Activity]:
        """List the activities that have to make progress, and drop the records of all others."""
        found = [each for each in running() if each.watched and not each.paused and not each.abandoned]
        seen = {each: self._seen.get(each) or _Seen(each.moves) for each in found}
        self._seen = {each: old if old.moves == each.moves else _Seen(each.moves) for each, old in seen.items()}
        return found

    def _look_at_loop(self, loop: asyncio.AbstractEventLoop, passed: float) -> bool:
        """Look whether the event loop answers; returns whether it is there at all."""
        if loop.is_closed() or not loop.is_running():
            if self._at_work():
                self._give_up(
                    "The event loop of a rollout worker has ended, so its prompts will never be finished. The log has "
                    "what ended it: sys.exit() in a callback of an agent loop or a tool, for example."
                )
            return False
        if self._answered.is_set():
            if self._reported:
                logger.warning("The event loop answers again.")
            self._silent_s, self._reported = 0.0, False
            self._answered.clear()
            try:
                loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # closed just now
                return self._look_at_loop(loop, passed)
            return True
        self._silent_s += passed
        self._judge_loop()
        return True

    def _judge_loop(self) -> None:
        limit = self._config.limit_s
        if self._silent_s >= self._warn_blocked_s and not self._reported:
            self._reported = True
            logger.error(
                "The event loop has been blocked for %.0f s, and with it all trajectories of this process. An async "
                "function must not call what blocks (time.sleep, requests): make it a plain function, which runs in a "
                "thread. Its stack:\n%s",
                self._silent_s,
                stack_of_thread(self._loop_thread),
            )
        if limit is not None and self._silent_s >= limit:
            self._give_up(
                f"The event loop of a rollout worker has been blocked for {self._silent_s:.0f} s. Remedy: an async "
                "function of an agent loop or a tool must not call what blocks; make it a plain function, which runs "
                f"in a thread. ({KEEP}={limit:g} says how long to wait.) Its stack:\n"
                + stack_of_thread(self._loop_thread)
            )

    def _look_at(self, activity: Activity, passed: float) -> None:
        config, seen = self._config, self._seen[activity]
        seen.stalled_s += passed
        if seen.stalled_s >= config.warn_s and not seen.reported:
            seen.reported = True
            logger.warning(
                "%s has made no progress for %.0f s. Its stack:\n%s", activity.name, seen.stalled_s, activity.stack()
            )
        if config.limit_s is not None and seen.stalled_s >= config.limit_s:
            self._give_up(
                f"{activity.name} has made no progress for {seen.stalled_s:.0f} s. Remedy: give what it waits for a "
                f"time-out of its own, or raise {KEEP}={config.limit_s:g} (null waits for ever). Its stack:\n"
                + activity.stack()
            )

    def _give_up(self, reason: str) -> None:
        if self.stuck is None:
            self.stuck = reason
            logger.error("%s", reason)
