"""Containment of reward functions in verl's reward workers, with a log line for one that takes long.

They are processes of their own: ``sys.exit()`` in a reward function ends one, and every later reward with it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from verl_atpo.algorithm import read_algorithm
from verl_atpo.config import WatchConfig
from verl_atpo.deadlines.activity import Activity, begin, end
from verl_atpo.deadlines.containment import called, contained
from verl_atpo.deadlines.within import within
from verl_atpo.rollout.health.watchdog import Watchdog
from verl_atpo.rollout.reward import sendable
from verl_atpo.seams.wrap import wrap_once

NAME = "The reward function"


def contain_reward_functions() -> Callable[[], None]:
    """Let verl load the user's reward function contained, in every process of this package; returns what undoes it."""
    from verl.trainer.ppo import reward

    return wrap_once(reward, "get_custom_reward_fn", _with_containment)


def _with_containment(original: Any) -> Any:
    def load(config: Any) -> Any:
        function = original(config)
        if function is None:
            return None
        return contained_reward(function, read_algorithm(config.get("algorithm") or {}).watch)

    return load


def contained_reward(function: Callable[..., Any], config: WatchConfig) -> Callable[..., Any]:
    """Wrap a reward function: what it raises is an ``Exception``, what it returns is checked, and it is watched.

    Args:
        function: plain or ``async``; the wrapper is what it is.
        config: seconds until its stack is logged. Giving up is left to the rollout worker that waits for the reward.
    """
    Watchdog(WatchConfig(warn_s=config.warn_s, limit_s=None)).start()

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        result = await within(None, Activity(NAME, watched=True), function(*args, **kwargs))
        return sendable(result)

    def plain(*args: Any, **kwargs: Any) -> Any:
        activity = Activity(NAME, watched=True, thread=threading.get_ident())
        begin(activity)
        try:
            result = called(function, *args, **kwargs)
            if inspect.isawaitable(result):  # of an async function inside a plain wrapper; verl calls it in a thread
                result = asyncio.run(contained(result))
        finally:
            activity.thread = None
            end(activity)
        return sendable(result)

    return awaited if inspect.iscoroutinefunction(function) else plain
