"""Conversion of queries to JSON answers: concurrent requests share batches, each query gets its own answer or error."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from verl_atpo.search_qa.retriever.batching import Batcher
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import Hit, PassageIndex

logger = logging.getLogger(__name__)

THREAD_NAME = "search"
_PASSAGE_COST = 16
_MOST_BATCH_COST = 16_384
"""Limit on the cost of a batch, so that long queries or many passages do not delay other requests for long."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One query of a request.

    Attributes:
        query: its text.
        topk: number of passages.
        scores: whether the answer includes scores.
    """

    query: str
    topk: int
    scores: bool

    def cost(self) -> int:
        """Estimated cost of the answer, in characters of a query."""
        return len(self.query) + _PASSAGE_COST * self.topk


class Answerer:
    """Batched search for the queries of concurrent requests; search and JSON run outside the event loop.

    Requests take turns in the queue, and the cost of a batch is limited, so that a large request is answered in parts
    between the others.

    Args:
        corpus: the passages.
        index: over them.
        max_batch: queries in one search.
        window_s: seconds that a query waits for others while a thread is idle.
        threads: concurrent searches.
    """

    def __init__(self, corpus: Corpus, index: PassageIndex, *, max_batch: int, window_s: float, threads: int) -> None:
        self._corpus = corpus
        self._index = index
        self._thread_count = threads
        self._threads: ThreadPoolExecutor | None = None
        self._batcher: Batcher[Question, bytes] = Batcher(
            self._answer_batch,
            max_batch=max_batch,
            window_s=window_s,
            concurrency=threads,
            cost=Question.cost,
            max_cost=_MOST_BATCH_COST,
        )

    async def answer(self, questions: list[Question]) -> list[bytes | Exception]:
        """Return the hits of each query as a JSON list, or its error; an empty list for a blank query."""
        source = object()
        asked = (self._batcher.submit(question, source) for question in questions)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        if stopped := next((each for each in answers if isinstance(each, asyncio.CancelledError)), None):
            raise stopped
        return cast("list[bytes | Exception]", answers)

    def check(self) -> None:
        """Raise ``DamagedError`` if a file of corpus or index has changed."""
        self._corpus.check()
        self._index.check()

    def close(self) -> None:
        """Stop the threads after their current searches; a later query starts new ones."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _answer_batch(self, asked: list[Question]) -> list[bytes | Exception]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._thread_count, thread_name_prefix=THREAD_NAME)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answers, asked)

    def _answers(self, asked: list[Question]) -> list[bytes | Exception]:
        self.check()
        found = self._search(asked)
        return [self._written(question, found[question.query, question.topk]) for question in asked]

    def _search(self, asked: list[Question]) -> dict[tuple[str, int], list[Hit] | Exception]:
        """Search once per ``topk`` in the batch: a larger one could change which of several equal scores are found."""
        found: dict[tuple[str, int], list[Hit] | Exception] = {}
        for topk in {question.topk for question in asked}:
            queries = list(dict.fromkeys(question.query for question in asked if question.topk == topk))
            known = [query for query in queries if query.strip()]
            hits = self._found(known, topk)
            found.update({(query, topk): [] for query in queries})
            found.update({(query, topk): here for query, here in zip(known, hits, strict=True)})
        return found

    def _found(self, queries: list[str], topk: int) -> Sequence[list[Hit] | Exception]:
        """Return the hits of each query; if the search of all fails, each is searched for alone."""
        if not queries:
            return []
        try:
            return self._index.search(queries, topk)
        except Exception as error:
            if len(queries) == 1:
                logger.exception("The search for %.200r failed", queries[0])
                return [error]
        return [self._found([query], topk)[0] for query in queries]

    def _written(self, question: Question, hits: list[Hit] | Exception) -> bytes | Exception:
        if isinstance(hits, Exception):
            return hits
        try:
            passages = [(self._corpus[place], score) for place, score in hits]
            shown = [{"document": each, "score": score} if question.scores else each for each, score in passages]
            return json.dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except Exception as error:
            logger.exception("The passages for %.200r cannot be served", question.query)
            return error
