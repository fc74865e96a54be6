"""Many concurrent calls, few batches: the two ends of the wire both use it."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects the items of concurrent callers into batches; for use in one event loop.

    A batch leaves when it is full, or when its oldest item has waited for ``window_s``. While ``concurrency`` batches
    are under way items wait, and leave at once in full batches as soon as one of them returns: the batches grow with
    the load. A caller that is cancelled takes its item along if it has not left, and disturbs no other caller.

    Args:
        run: makes one batch; returns one result per item, in order.
        max_batch: items in one batch.
        window_s: seconds that the first item of a batch waits for company.
        concurrency: batches under way at once.
    """

    def __init__(
        self, run: Callable[[list[Item]], Awaitable[list[Result]]], *, max_batch: int, window_s: float, concurrency: int
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._window_s = window_s
        self._free = concurrency
        self._waiting: collections.deque[tuple[Item, asyncio.Future[Result]]] = collections.deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """The result of ``item``.

        Raises:
            Exception: whatever ``run`` raised for the batch the item was in.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._max_batch:
            self._leave()
        elif self._timer is None and self._free:
            self._timer = loop.call_later(self._window_s, self._leave)
        return await future

    def _leave(self) -> None:
        """Start batches of what waits, as many as may be under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and self._waiting:
            batch: list[tuple[Item, asyncio.Future[Result]]] = []
            while self._waiting and len(batch) < self._max_batch:
                item, future = self._waiting.popleft()
                if not future.done():  # done here: its caller was cancelled
                    batch.append((item, future))
            if batch:
                self._free -= 1
                task = asyncio.get_running_loop().create_task(self._carry_out(batch))
                self._tasks.add(task)
                task.add_done_callback(self._returned)

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        self._leave()

    async def _carry_out(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"got {len(results)} results for {len(batch)} items, expected one per item")
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
