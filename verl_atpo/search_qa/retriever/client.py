"""Client of ``POST /retrieve``, the interface that Search-R1 introduced and similar servers share.

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
    """No answer; the message names url and error.

    Attributes:
        passing: whether the reason is transient: a connection error, a time-out, 429, 5xx or an answer that cannot be
            read. Otherwise the server refused the request.
    """

    def __init__(self, said: str, *, passing: bool) -> None:
        super().__init__(said)
        self.passing = passing


class _Passing(Exception):
    """A request failed for a transient reason."""


class _Unfit(_Passing):
    """The server failed on a request, or its answer cannot be read: a single query may be the cause."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """Result of one query.

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
    """Connections of one event loop, and a limit on running requests; a request's time starts once it may run."""

    session: aiohttp.ClientSession
    places: asyncio.Semaphore


@dataclasses.dataclass(frozen=True)
class _End:
    """State of one event loop: connections and running batches."""

    scope: AsyncGenerator[aiohttp.ClientSession, None]
    batcher: Batcher[str, Answer]


class RetrieverClient:
    """Client that batches concurrent queries over persistent connections; may be shared between event loops.

    Connections belong to an event loop. They are closed with it (when the loop shuts down its asynchronous generators,
    as ``asyncio.run`` does) or at the end of the process.

    A query never fails because of another one: if a request with several queries is answered by 5xx, or by an answer
    that cannot be read, each query is sent again in its own request. All other retries are the caller's
    (``replay/guard.py``).

    Args:
        url: the endpoint, path included.
        topk: passages per query.
        timeout_s: seconds that one request may take.
        batch_window_s: seconds that a query waits for others.
        max_batch: queries in one request.
        max_requests: concurrent requests.
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
        """Return the passages for one query.

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
        """Return each query's result; of several queries, one without result is sent again alone."""
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
        """Return each query's passages or error, or None for a query to be sent again alone."""
        try:
            return list(await self._post(line, queries))
        except (_Passing, aiohttp.ClientError) as error:
            if isinstance(error, _Unfit) and len(queries) > 1:
                return [None for _ in queries]
            said = f"No answer from {self.url}: {error}. Is the retriever up, and is the url right?"
            return [RetrieverError(said, passing=isinstance(error, _Passing)) for _ in queries]

    async def _post(self, line: _Line, queries: Sequence[str]) -> list[Passages | None]:
        """Send one request and read its answer."""
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
        """Close the connections of loops that were never shut down; called at the end of the process."""
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
