"""The client's end of ``POST /retrieve``, the interface that Search-R1 introduced and the field's servers share.

Request: ``{"queries": [...], "topk": 3, "return_scores": true}``. Answer: ``{"result": [[hit, ...], ...]}``, one list
per query; a hit is ``{"document": {"id", "contents"}, "score"}``, or only the document from servers that give no
scores. ``contents`` is the title in quotes, a line break, the text.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import time
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from verl_atpo.search_qa.retriever.batching import Batcher

LONGEST_BACKOFF_S = 10.0
_SHOWN_CHARS = 200
_KEEP_IDLE_S = 4.0  # servers close idle connections after 5 s (uvicorn) or more; a request must not meet that


class RetrieverError(RuntimeError):
    """No answer: the retries are used up, or the server refused the request. Says url, last error, tries."""


class _Passing(Exception):
    """One try failed for a reason that may pass."""


@dataclasses.dataclass(frozen=True)
class Passage:
    """One hit.

    Attributes:
        contents: ``"Title"``, a line break, the text.
        id: the server's name of it, if it gave one.
        score: higher is better; ``None`` if the server gave none.
    """

    contents: str
    id: str | None = None
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one query got.

    Attributes:
        passages: best first.
        tries: HTTP requests made for it, 1 if the first succeeded.
        batch_size: queries in that request.
        seconds: from sending the first request to the answer, back-off included.
    """

    passages: tuple[Passage, ...]
    tries: int
    batch_size: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _End:
    """What belongs to one event loop: connections and the batches under way."""

    session: aiohttp.ClientSession
    scope: AsyncGenerator[aiohttp.ClientSession, None]
    batcher: Batcher[str, Answer]


class RetrieverClient:
    """Sends queries of concurrent callers in few requests over kept connections; safe to share between event loops.

    Connections belong to an event loop and are closed with it (when the loop shuts its asynchronous generators down,
    as ``asyncio.run`` does) or at the end of the process.

    Args:
        url: the endpoint, path included.
        topk: passages per query.
        timeout_s: seconds that one try may take.
        retries: further tries after a connection error, a time-out, 429, 5xx or an answer that is not understood.
        backoff_s: seconds before the first further try; doubles with each, 10 s at most; up to ``backoff_s`` of
            jitter is added.
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
        retries: int,
        backoff_s: float,
        batch_window_s: float,
        max_batch: int,
        max_requests: int,
    ) -> None:
        self.url = url
        self._topk = topk
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._retries = retries
        self._backoff_s = backoff_s
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
            RetrieverError: no answer past the retries, or the server refused the request (4xx but 429).
        """
        return await (await self._end()).batcher.submit(query)

    async def _end(self) -> _End:
        loop = asyncio.get_running_loop()
        if loop not in self._ends:
            for other in [each for each in self._ends if each.is_closed()]:
                del self._ends[other]
            scope = self._open(loop)
            session = await anext(scope)  # does not suspend: no second caller comes between

            async def fetch(queries: list[str]) -> list[Answer]:
                return await self._fetch(session, queries)

            self._ends[loop] = _End(session, scope, Batcher(fetch, **self._batching))
        return self._ends[loop]

    async def _open(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession, None]:
        connector = aiohttp.TCPConnector(limit=self._batching["concurrency"], keepalive_timeout=_KEEP_IDLE_S)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session:
                yield session
        finally:
            self._ends.pop(loop, None)

    async def _fetch(self, session: aiohttp.ClientSession, queries: list[str]) -> list[Answer]:
        started = time.monotonic()
        tries = AsyncRetrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=wait_exponential(multiplier=self._backoff_s, max=LONGEST_BACKOFF_S) + wait_random(0, self._backoff_s),
            retry=retry_if_exception_type(_Passing),
            reraise=True,
        )
        count = 0
        try:
            async for attempt in tries:
                with attempt:
                    count = attempt.retry_state.attempt_number
                    found = await self._post(session, queries)
        except (_Passing, aiohttp.ClientError) as error:
            raise RetrieverError(
                f"No answer from {self.url} after {count} {'try' if count == 1 else 'tries'}; last error: {error}. "
                "Is the retriever up, and is the url right?"
            ) from error
        seconds = time.monotonic() - started
        return [Answer(passages, count, len(queries), seconds) for passages in found]

    async def _post(self, session: aiohttp.ClientSession, queries: list[str]) -> list[tuple[Passage, ...]]:
        """One try."""
        body = {"queries": queries, "topk": self._topk, "return_scores": True}
        try:
            async with session.post(self.url, json=body) as response:
                if response.status != 200:
                    said = " ".join((await response.text(errors="replace"))[:_SHOWN_CHARS].split())
                    passing = response.status == 429 or response.status >= 500
                    raise (_Passing if passing else aiohttp.ClientError)(f"HTTP {response.status}: {said}")
                return parse_result(await response.json(content_type=None), len(queries))
        except asyncio.TimeoutError:
            raise _Passing(f"no answer within {self._timeout.total:g} s") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ValueError) as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error

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


def parse_result(body: Any, queries: int) -> list[tuple[Passage, ...]]:
    """Read the JSON of an answer.

    Args:
        body: the decoded JSON.
        queries: how many lists of hits are expected.

    Raises:
        ValueError: another shape than this module describes.
    """
    if not isinstance(body, dict) or not isinstance(body.get("result"), list):
        raise ValueError(f'expected {{"result": [[...], ...]}}, got {_shown(body)}')
    result = body["result"]
    if len(result) != queries:
        raise ValueError(f"expected one list of hits for each of {queries} queries, got {len(result)}")
    return [_parse_hits(hits) for hits in result]


def _parse_hits(hits: Any) -> tuple[Passage, ...]:
    if not isinstance(hits, list):
        raise ValueError(f"expected a list of hits, got {_shown(hits)}")
    return tuple(_parse_hit(hit) for hit in hits)


def _parse_hit(hit: Any) -> Passage:
    scored = isinstance(hit, dict) and "document" in hit
    document = hit["document"] if scored else hit
    if not isinstance(document, dict) or not isinstance(document.get("contents"), str):
        raise ValueError(f'expected a hit with a document that has "contents", got {_shown(hit)}')
    score = hit.get("score") if scored else None
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise ValueError(f"expected a number as score, got {_shown(score)}")
    name = document.get("id")
    return Passage(document["contents"], None if name is None else str(name), None if score is None else float(score))


def _shown(value: Any) -> str:
    return repr(value)[:_SHOWN_CHARS]
