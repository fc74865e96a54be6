"""The client's end of ``POST /retrieve``, the interface that Search-R1 introduced and the field's servers share.

Request: ``{"queries": [...], "topk": 3, "return_scores": true}``. Answer: ``{"result": [[hit, ...], ...]}``, one list
per query (``hits.py`` reads it).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import time
import weakref
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import aiohttp

from verl_atpo.search_qa.retriever.batching import Batcher
from verl_atpo.search_qa.retriever.hits import Passages, body_of, parse_result

_SHOWN_CHARS = 200
_KEEP_IDLE_S = 4.0  # servers close idle connections after 5 s (uvicorn) or more; a request must not meet that


class RetrieverError(RuntimeError):
    """No answer; says url and error.

    Attributes:
        passing: whether the reason may pass: a connection error, a time-out, 429, 5xx or an answer that is not
            understood. Otherwise the server refused the request.
    """

    def __init__(self, said: str, *, passing: bool) -> None:
        super().__init__(said)
        self.passing = passing


class _Passing(Exception):
    """A request failed for a reason that may pass."""


class _Unfit(_Passing):
    """The server failed over what it was asked, or answered what cannot be understood: one query may be the cause."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one query got.

    Attributes:
        passages: best first.
        batch_size: queries in the request that was answered.
        seconds: from sending the request to the answer.
    """

    passages: Passages
    batch_size: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Line:
    """Connections, and places for the requests under way: a request waits for its place, and its time begins then."""

    session: aiohttp.ClientSession
    places: asyncio.Semaphore


@dataclasses.dataclass(frozen=True)
class _End:
    """What belongs to one event loop: connections and the batches under way."""

    scope: AsyncGenerator[aiohttp.ClientSession, None]
    batcher: Batcher[str, Answer]


class RetrieverClient:
    """Sends queries of concurrent callers in few requests over kept connections; safe to share between event loops.

    Connections belong to an event loop and are closed with it (when the loop shuts its asynchronous generators down,
    as ``asyncio.run`` does) or at the end of the process.

    A query never fails for what another one does: when a request with several is answered by 5xx, or by what cannot be
    understood, each of them is asked again in a request of its own. Other further tries are the caller's
    (``replay/guard.py``).

    Args:
        url: the endpoint, path included.
        topk: passages per query.
        timeout_s: seconds that one request may take.
        batch_window_s: seconds that a query waits for others.
        max_batch: queries in one request.
        max_requests: requests under way at once.
    """

    def __init__(
        self,
        url: str,
        *,
        topk: int,
        timeout_s: float,
        batch_window_s: float,
        max_batch: int,
        max_requests: int,
    ) -> None:
        self.url = url
        self._topk = topk
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._batching: dict[str, Any] = {
            "max_batch": max_batch,
            "window_s": batch_window_s,
            "concurrency": max_requests,
        }
        self._ends: dict[asyncio.AbstractEventLoop, _End] = {}
        _CLIENTS.add(self)

    async def retrieve(self, query: str) -> Answer:
        """The passages for one query.

        Raises:
            RetrieverError: no answer.
        """
        return await (await self._end()).batcher.submit(query)

    async def _end(self) -> _End:
        loop = asyncio.get_running_loop()
        if loop not in self._ends:
            for other in [each for each in self._ends if each.is_closed()]:
                del self._ends[other]
            scope = self._open(loop)
            session = await anext(scope)  # does not suspend: no second caller comes between
            line = _Line(session, asyncio.Semaphore(self._batching["concurrency"]))

            async def fetch(queries: list[str]) -> list[Answer | RetrieverError]:
                return await self._fetch(line, queries)

            self._ends[loop] = _End(scope, Batcher(fetch, **self._batching))
        return self._ends[loop]

    async def _open(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession, None]:
        connector = aiohttp.TCPConnector(limit=self._batching["concurrency"], keepalive_timeout=_KEEP_IDLE_S)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session:
                yield session
        finally:
            self._ends.pop(loop, None)

    async def _fetch(self, line: _Line, queries: Sequence[str]) -> list[Answer | RetrieverError]:
        """What each query got; of several queries, one that got nothing is asked again on its own."""
        started = time.monotonic()
        found = await self._asked(line, queries)
        places = [place for place, each in enumerate(found) if each is None]
        alone = iter(await asyncio.gather(*(self._asked(line, [queries[place]]) for place in places)))
        answers: list[Answer | RetrieverError] = []
        for each in found:
            size = len(queries)
            if each is None:
                (each,), size = next(alone), 1
            assert each is not None  # what one query alone got is an answer or an error
            if isinstance(each, RetrieverError):
                answers.append(each)
            else:
                answers.append(Answer(each, size, time.monotonic() - started))
        return answers

    async def _asked(self, line: _Line, queries: Sequence[str]) -> list[Passages | RetrieverError | None]:
        """The passages of each query, or why there are none, or None for one to be asked alone."""
        try:
            return list(await self._post(line, queries))
        except (_Passing, aiohttp.ClientError) as error:
            if isinstance(error, _Unfit) and len(queries) > 1:
                return [None for _ in queries]
            said = f"No answer from {self.url}: {error}. Is the retriever up, and is the url right?"
            return [RetrieverError(said, passing=isinstance(error, _Passing)) for _ in queries]

    async def _post(self, line: _Line, queries: Sequence[str]) -> list[Passages | None]:
        """One request."""
        body = {"queries": queries, "topk": self._topk, "return_scores": True}
        try:
            async with line.places, line.session.post(self.url, json=body) as response:
                if response.status != 200:
                    said = " ".join((await response.content.read(_SHOWN_CHARS)).decode(errors="replace").split())
                    failed = _Unfit if response.status >= 500 else _Passing
                    passing = response.status == 429 or response.status >= 500
                    raise (failed if passing else aiohttp.ClientError)(f"HTTP {response.status}: {said}")
                found = parse_result(await body_of(response), len(queries))
        except asyncio.TimeoutError:
            raise _Passing(f"no answer within {self._timeout.total:g} s") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error
        except (ValueError, aiohttp.ClientResponseError) as error:
            raise _Unfit(f"{type(error).__name__}: {error}") from error
        if len(queries) == 1 and isinstance(found[0], ValueError):
            raise _Unfit(f"{type(found[0]).__name__}: {found[0]}")
        return [None if isinstance(each, ValueError) else each for each in found]

    def close_at_exit(self) -> None:
        """Close what loops that were never shut down have left open; called at the end of the process."""
        for loop, end in list(self._ends.items()):
            if loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(end.scope.aclose(), loop)
                with contextlib.suppress(TimeoutError):
                    closing.result(timeout=1.0)
            elif not loop.is_closed():
                loop.run_until_complete(end.scope.aclose())


_CLIENTS: weakref.WeakSet[RetrieverClient] = weakref.WeakSet()


@atexit.register
def _close_clients() -> None:
    for client in list(_CLIENTS):
        client.close_at_exit()
