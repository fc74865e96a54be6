"""Batching of concurrent calls, for both the client and the server."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def _one(item: object) -> int:
    return 1


class Batcher(Generic[Item, Result]):
    """Collector of concurrent callers' items into batches, for use in one event loop.

    A batch starts when it is full, or when its oldest item has waited for ``window_s``. While ``concurrency`` batches
    run, items wait; as soon as one batch returns, they start at once in full batches, so batches grow with the load. A
    cancelled caller removes its item if that has not started, and affects no other caller. Sources take turns, so a
    large one does not delay a small one.

    Args:
        run: processes one batch; returns one result per item, in order. A result that is an exception is raised only
            for the caller of its item; an exception of ``run`` is raised for all callers of the batch.
        max_batch: items in one batch.
        window_s: seconds that the first item of a batch waits for others.
        concurrency: batches that run at once.
        cost: computes the cost of an item.
        max_cost: largest cost of a batch; an item that costs more goes alone.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_batch: int,
        window_s: float,
        concurrency: int,
        cost: Callable[[Item], int] = _one,
        max_cost: int | None = None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._window_s = window_s
        self._free = concurrency
        self._cost = cost
        self._max_cost = max_batch if max_cost is None else max_cost
        self._waiting: dict[Hashable, collections.deque[tuple[Item, asyncio.Future[Result]]]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item, source: Hashable = None) -> Result:
        """Return the result of ``item``.

        Args:
            item: input of one call.
            source: identity of the caller; sources take turns.

        Raises:
            Exception: the item's own, or the one that ``run`` raised for its batch.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.setdefault(source, collections.deque()).append((item, future))
        self._count += 1
        if self._count >= self._max_batch:
            self._leave()
        elif self._timer is None and self._free:
            self._timer = loop.call_later(self._window_s, self._leave)
        return await future

    def _leave(self) -> None:
        """Start batches of the waiting items, up to ``concurrency``."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and (batch := self._batch()):
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._carry_out(batch))
            self._tasks.add(task)
            task.add_done_callback(self._returned)

    def _batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Form the next batch: one item of each source in turn; the source served last goes to the end of the queue."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        cost = 0
        while self._waiting and len(batch) < self._max_batch:
            source = next(iter(self._waiting))
            items = self._waiting.pop(source)
            item, future = items[0]
            if not future.done():  # done here: its caller was cancelled
                if batch and cost + self._cost(item) > self._max_cost:
                    self._waiting = {source: items, **self._waiting}  # it is first in the next batch
                    break
                cost += self._cost(item)
                batch.append((item, future))
            items.popleft()
            self._count -= 1
            if items:
                self._waiting[source] = items
        return batch

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
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
