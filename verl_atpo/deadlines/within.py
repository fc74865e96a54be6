"""Await foreign code for a limited time, by a deadline that it cannot swallow."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable
from typing import Any

from verl_atpo.deadlines.activity import CURRENT, Activity, begin, end
from verl_atpo.deadlines.containment import contained
from verl_atpo.failure import StrayCancellation

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""Seconds that cancelled code may take to end before it is left behind."""


async def within(seconds: float | None, activity: Activity, work: Awaitable[Any]) -> Any:
    """Await foreign code in a task of its own; one that goes on after its time and its cancellation is abandoned.

    Args:
        seconds: how long it may take; ``None`` for no limit.
        activity: a new one; it is listed until the code has ended.
        work: the code.

    Raises:
        TimeoutError: it took longer.
        StrayCancellation: it let a ``CancelledError`` escape that nobody asked for, as clients do whose connection
            was closed under them.
        Exception: what it raised; what is no ``Exception`` as :class:`verl_atpo.failure.ExitError`.
    """
    context = contextvars.copy_context()
    context.run(CURRENT.set, activity)
    task = activity.task = context.run(asyncio.ensure_future, contained(work))
    begin(activity)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            if task.cancelled():
                raise StrayCancellation(f"{activity.name} let a CancelledError of its own client escape.")
            return task.result()
        raise TimeoutError(f"{activity.name} took longer than {seconds:g} s.")
    finally:
        await _stop(activity, task)


async def _stop(activity: Activity, task: asyncio.Task[Any]) -> None:
    """Cancel what still runs and wait a little for its end; it stays listed if it does not come."""
    try:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=GRACE_S)
    finally:
        task.add_done_callback(_heard)
        if activity.ended:
            end(activity)
        else:
            activity.abandoned = True
            logger.warning("%s goes on though nobody waits for it. It stands at:\n%s", activity.name, activity.stack())


def _heard(task: asyncio.Task[Any]) -> None:
    """Take note of an error that nobody waits for, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()
