"""Daemon threads for plain functions of tools, one per running function."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import queue
import threading
from collections.abc import Callable
from typing import Any

from verl_atpo.deadlines.activity import CURRENT
from verl_atpo.deadlines.containment import called

IDLE_S = 60.0
"""Seconds after which a thread without work ends."""

_Job = Callable[[], None]


class _Threads:
    """Pool of daemon threads: a job gets an idle thread if there is one, else a new one.

    A thread whose function hangs blocks no other job, and does not keep the process from ending. Callers limit how
    many run at once (tools by ``tools.concurrency``).
    """

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[_Job]] = []
        self._lock = threading.Lock()

    def start(self, job: _Job) -> None:
        """Run a job in a thread."""
        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
                return
        jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        jobs.put(job)
        threading.Thread(target=self._work, args=(jobs,), name="verl_atpo-tool", daemon=True).start()

    def _work(self, jobs: queue.SimpleQueue[_Job]) -> None:
        while True:
            try:
                job = jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if jobs in self._idle:
                        self._idle.remove(jobs)
                        return
                continue  # a job has just been put
            job()
            with self._lock:
                self._idle.append(jobs)


_THREADS = _Threads()


async def in_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a plain function of a tool in a thread, in the context of the current task.

    Raises:
        Exception: the function's error; ``StopIteration`` and any non-``Exception`` as :class:`ExitError`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    activity = CURRENT.get()
    call = functools.partial(contextvars.copy_context().run, called, function, *args, **kwargs)

    def job() -> None:
        if activity is not None:
            activity.thread = threading.get_ident()
        try:
            outcome, error = call(), None
        except Exception as raised:
            outcome, error = None, raised
        finally:
            if activity is not None:
                activity.thread = None
        try:
            loop.call_soon_threadsafe(_settle, future, outcome, error)
        except RuntimeError:  # the loop has been closed: nothing waits
            return

    _THREADS.start(job)
    return await future


def _settle(future: asyncio.Future[Any], outcome: Any, error: Exception | None) -> None:
    if future.done():  # cancelled: nothing waits
        return
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)
