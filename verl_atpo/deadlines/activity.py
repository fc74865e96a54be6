"""Registry of the foreign code that runs in this process, with its stacks, for a watchdog on another thread."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import threading
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

SHOWN_FRAMES = 12
_HERE = str(Path(__file__).parent)


@dataclasses.dataclass(eq=False)
class Activity:
    """A run of foreign code.

    Attributes:
        name: name of the code, for messages.
        watched: whether the watchdog limits how long it may hang; time in which it is paused does not count.
        task: the task that runs it.
        thread: identifier of the thread in which a plain function of it runs, while it runs.
        paused: number of its running calls that have time limits of their own.
        moves: number of times that it has continued after such calls.
        abandoned: whether it still runs though nothing waits for it any more.
    """

    name: str
    watched: bool = False
    task: asyncio.Task[Any] | None = None
    thread: int | None = None
    paused: int = 0
    moves: int = 0
    abandoned: bool = False

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the code inside the ``with`` block from the watchdog's limit."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1
            self.moves += 1

    @property
    def ended(self) -> bool:
        """True if neither its task nor its thread runs any more."""
        return self.thread is None and (self.task is None or self.task.done())

    def stack(self) -> str:
        """Format the stack of its thread, else that of the coroutines that its task awaits."""
        if self.thread is not None:
            return stack_of_thread(self.thread)
        return "".join(_awaited(self.task)[-SHOWN_FRAMES:]) if self.task is not None else ""


CURRENT: ContextVar[Activity | None] = ContextVar("verl_atpo_activity", default=None)
"""The activity that the current task belongs to."""

_running: set[Activity] = set()
_lock = threading.Lock()


def begin(activity: Activity) -> None:
    """Add an activity to the registry."""
    with _lock:
        _running.add(activity)


def end(activity: Activity) -> None:
    """Remove an activity from the registry."""
    with _lock:
        _running.discard(activity)


def running() -> list[Activity]:
    """Return all activities that run in this process, abandoned ones too."""
    with _lock:
        _running.difference_update([activity for activity in _running if activity.abandoned and activity.ended])
        return list(_running)


def stack_of_thread(thread: int) -> str:
    """Format a thread's stack, innermost call last; empty if it has ended."""
    frame = sys._current_frames().get(thread)
    return "" if frame is None else "".join(traceback.format_stack(frame, None)[-SHOWN_FRAMES:])


def _awaited(task: asyncio.Future[Any] | None, depth: int = 0) -> list[str]:
    """Format the coroutines that a task awaits, outermost first, then those of the task that it waits for."""
    if not isinstance(task, asyncio.Task) or depth > SHOWN_FRAMES:
        return []
    lines = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = next((found for name in _FRAMES if (found := getattr(awaited, name, None)) is not None), None)
        if isinstance(frame, FrameType):
            code = frame.f_code
            if not code.co_filename.startswith(_HERE):
                lines += traceback.format_list([traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name)])
            elif code.co_name == "within":  # it waits for a task without awaiting it
                return lines + _awaited(frame.f_locals.get("task"), depth + 1)
        awaited = next((found for name in _NEXT if (found := getattr(awaited, name, None)) is not None), None)
    waits_for = getattr(task, "_fut_waiter", None)
    children = [child for child in getattr(waits_for, "_children", ()) if not child.done()]
    return lines + _awaited(children[0] if children else waits_for, depth + 1)


_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_NEXT = ("cr_await", "gi_yieldfrom", "ag_await")
"""Attributes of coroutines, generators and asynchronous generators: their frame, and the object that they await."""
