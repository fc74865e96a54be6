"""The HTTP interface: ``POST /retrieve`` as Search-R1 has it, ``GET /health``."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from verl_atpo.search_qa.retriever.batching import Batcher
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import Hit, PassageIndex


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Limits and batching of the server.

    Attributes:
        topk: passages per query of a request that does not say.
        max_topk: most that a request may ask for.
        max_queries: queries in one request.
        max_query_chars: characters of one query.
        max_body_bytes: bytes of one request.
        max_batch: queries in one search.
        batch_window_s: seconds a query waits for others while a thread is idle.
        threads: searches at once.
    """

    topk: int = 3
    max_topk: int = 100
    max_queries: int = 1024
    max_query_chars: int = 8192
    max_body_bytes: int = 4 << 20
    max_batch: int = 64
    batch_window_s: float = 0.002
    threads: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < (0 if field.name == "batch_window_s" else 1):
                raise ValueError(f"{field.name}={value!r} cannot work: expected at least 1 (a window: at least 0)")
        if self.topk > self.max_topk:
            raise ValueError(f"topk={self.topk} cannot work: expected at most max_topk={self.max_topk}")


class Searcher:
    """Batches the queries of concurrent requests and searches outside the event loop."""

    def __init__(self, corpus: Corpus, index: PassageIndex, settings: ServerSettings) -> None:
        self._corpus = corpus
        self._index = index
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="search")
        self._batcher: Batcher[tuple[str, int], list[dict[str, Any]]] = Batcher(
            self._search_batch,
            max_batch=settings.max_batch,
            window_s=settings.batch_window_s,
            concurrency=settings.threads,
        )

    async def search(self, queries: list[str], topk: int) -> list[list[dict[str, Any]]]:
        """Hits of each query, ``{"document": {"id", "contents"}, "score"}``; none for a blank query."""
        return list(await asyncio.gather(*(self._one(query, topk) for query in queries)))

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown()

    async def _one(self, query: str, topk: int) -> list[dict[str, Any]]:
        return await self._batcher.submit((query, topk)) if query.strip() else []

    async def _search_batch(self, asked: list[tuple[str, int]]) -> list[list[dict[str, Any]]]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._search, asked)

    def _search(self, asked: list[tuple[str, int]]) -> list[list[dict[str, Any]]]:
        """One search per ``topk`` in the batch: a larger one must not change which of equal scores are found."""
        found: dict[tuple[str, int], list[Hit]] = {}
        for topk in {topk for _, topk in asked}:
            queries = list(dict.fromkeys(query for query, wanted in asked if wanted == topk))
            hits = self._index.search(queries, topk)
            found.update({(query, topk): found_here for query, found_here in zip(queries, hits, strict=True)})
        return [
            [{"document": self._corpus[place], "score": score} for place, score in found[question]]
            for question in asked
        ]


def create_app(corpus: Corpus, index: PassageIndex, settings: ServerSettings) -> FastAPI:
    """The application, ready to serve.

    Args:
        corpus: the passages.
        index: over them.
        settings: limits and batching.
    """
    searcher = Searcher(corpus, index, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        searcher.close()

    app = FastAPI(title="Passage retriever", lifespan=lifespan)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_exception_handler(RequestValidationError, _refuse)
    question = _request_model(settings)

    @app.post("/retrieve")
    async def retrieve(request: question) -> JSONResponse:  # type: ignore[valid-type]
        asked: Any = request
        found = await searcher.search(asked.queries, settings.topk if asked.topk is None else asked.topk)
        plain = found if asked.return_scores else [[hit["document"] for hit in hits] for hits in found]
        return JSONResponse({"result": plain})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ready", "passages": len(corpus), "method": index.method, "model": index.model}

    return app


def _request_model(settings: ServerSettings) -> type[BaseModel]:
    class Question(BaseModel):
        model_config = ConfigDict(extra="ignore", strict=True)

        queries: Annotated[
            list[Annotated[str, Field(max_length=settings.max_query_chars)]],
            Field(min_length=1, max_length=settings.max_queries),
        ]
        topk: Annotated[int, Field(ge=1, le=settings.max_topk)] | None = None
        return_scores: bool = False

    return Question


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """422 with place and reason; the input is not sent back, it need not even be valid JSON."""
    assert isinstance(error, RequestValidationError)
    detail = [{"loc": list(each["loc"]), "msg": each["msg"]} for each in error.errors()]
    return JSONResponse({"detail": detail}, status_code=422)
