"""Many concurrent calls, few batches: the two ends of the wire both use it."""

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
    """Collects the items of concurrent callers into batches; for use in one event loop.

    A batch leaves when it is full, or when its oldest item has waited for ``window_s``. While ``concurrency`` batches
    are under way items wait, and leave at once in full batches as soon as one of them returns: the batches grow with
    the load. A caller that is cancelled takes its item along if it has not left, and disturbs no other caller. Sources
    take turns, so one that wants much does not delay one that wants little.

    Args:
        run: makes one batch; returns one result per item, in order. A result that is an exception is raised to the
            caller of its item alone; one that ``run`` raises, to all callers of the batch.
        max_batch: items in one batch.
        window_s: seconds that the first item of a batch waits for company.
        concurrency: batches under way at once.
        cost: of an item.
        max_cost: of one batch; an item that costs more goes alone.
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
        """The result of ``item``.

        Args:
            item: one.
            source: whose it is; sources take turns.

        Raises:
            Exception: the item's own, or whatever ``run`` raised for the batch it was in.
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
        """Start batches of what waits, as many as may be under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and (batch := self._batch()):
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._carry_out(batch))
            self._tasks.add(task)
            task.add_done_callback(self._returned)

    def _batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next batch: an item of each source in turn, the source served last at the end of the queue."""
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
