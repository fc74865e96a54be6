"""A deadline for foreign code that the code cannot swallow."""

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
"""Seconds that cancelled code may take to end before it is abandoned."""


async def within(seconds: float | None, activity: Activity, work: Awaitable[Any]) -> Any:
    """Await foreign code in its own task; a task that continues after its deadline and cancellation is abandoned.

    Args:
        seconds: time limit; ``None`` for none.
        activity: a new one; it stays registered until the code has ended.
        work: the code.

    Raises:
        TimeoutError: it took longer.
        StrayCancellation: it let a ``CancelledError`` escape that nobody requested, as some clients do when their
            connection is closed.
        Exception: the code's error; any non-``Exception`` as :class:`verl_atpo.failure.ExitError`.
    """
    context = contextvars.copy_context()
    context.run(CURRENT.set, activity)
    task = activity.task = context.run(asyncio.ensure_future, contained(work))
    begin(activity)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            if task.cancelled():
                raise StrayCancellation(f"{activity.name} let a CancelledError of a client escape.")
            return task.result()
        raise TimeoutError(f"{activity.name} took longer than {seconds:g} s.")
    finally:
        await _stop(activity, task)


async def _stop(activity: Activity, task: asyncio.Task[Any]) -> None:
    """Cancel a running task and wait for its end; if it does not end in time, it stays registered."""
    try:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=GRACE_S)
    finally:
        task.add_done_callback(_retrieve_error)
        if activity.ended:
            end(activity)
        else:
            activity.abandoned = True
            logger.warning("%s still runs though nothing waits for it. Its stack:\n%s", activity.name, activity.stack())


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """Retrieve the error of an abandoned task, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
