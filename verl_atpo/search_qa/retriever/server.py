"""The HTTP interface: ``POST /retrieve`` as Search-R1 has it, ``GET /health``."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from verl_atpo.search_qa.retriever.answering import Answerer, Question
from verl_atpo.search_qa.retriever.artifacts import DamagedError
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import PassageIndex
from verl_atpo.search_qa.retriever.settings import ServerSettings
from verl_atpo.search_qa.retriever.unicode import valid_unicode

_JSON = re.compile(r"\s*application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)
"""Content types whose bodies are read as JSON."""


class Document(BaseModel):
    """A passage."""

    id: str | int
    contents: str


class ScoredDocument(BaseModel):
    """A passage and its score, higher is better."""

    document: Document
    score: float


class RetrieveAnswer(BaseModel):
    """One list of hits per query, best first."""

    result: list[list[ScoredDocument] | list[Document]]


class HealthAnswer(BaseModel):
    """Description of the served index."""

    status: Literal["ready"]
    passages: int
    method: str
    model: str | None


class Refusal(BaseModel):
    """Reason of an error."""

    detail: Any


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The body cannot be read: not UTF-8, compressed, or nested too deeply"},
    413: {"description": "The body is too large"},
    422: {"model": Refusal, "description": "The body is not as described; place and reason"},
    500: {"model": Refusal, "description": "A query cannot be answered; which, and why"},
    503: {"model": Refusal, "description": "A file of corpus or index is damaged; which, and the remedy"},
}


def create_app(corpus: Corpus, index: PassageIndex, settings: ServerSettings) -> FastAPI:
    """The application, ready to serve.

    Args:
        corpus: the passages.
        index: over them.
        settings: limits and batching.
    """
    answerer = Answerer(
        corpus, index, max_batch=settings.max_batch, window_s=settings.batch_window_s, threads=settings.threads
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        answerer.close()

    app = FastAPI(title="Passage retriever", lifespan=lifespan)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    request_model = _request_model(settings)

    @app.post("/retrieve", response_model=RetrieveAnswer, responses=_REFUSALS)
    async def retrieve(request: request_model) -> Response:  # type: ignore[valid-type]
        asked: Any = request
        topk = settings.topk if asked.topk is None else asked.topk
        questions = [Question(query, topk, asked.return_scores) for query in asked.queries]
        answers = await answerer.answer(questions)
        for place, answer in enumerate(answers):
            if isinstance(answer, Exception):
                return _failed(f"query {place}: {answer}", damaged=isinstance(answer, DamagedError))
        body = b'{"result":[' + b",".join(cast("list[bytes]", answers)) + b"]}"
        return Response(body, media_type="application/json")

    @app.get("/health", response_model=HealthAnswer, responses={503: {"model": Refusal}})
    async def health() -> Any:
        try:
            await asyncio.to_thread(answerer.check)
        except DamagedError as error:
            return _failed(str(error), damaged=True)
        return {"status": "ready", "passages": len(corpus), "method": index.method, "model": index.model}

    return app


def _failed(reason: str, *, damaged: bool) -> JSONResponse:
    return JSONResponse({"detail": valid_unicode(reason)}, status_code=503 if damaged else 500)


def _as_json_has_it(number: Any) -> Any:
    """Accept 5.0 as an integer, since JSON has only one type of number."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _request_model(settings: ServerSettings) -> type[BaseModel]:
    class RetrieveRequest(BaseModel):
        model_config = ConfigDict(extra="ignore", strict=True)

        queries: Annotated[
            list[Annotated[str, Field(max_length=settings.max_query_chars)]],
            Field(min_length=1, max_length=settings.max_queries),
        ]
        topk: Annotated[int, Field(ge=1, le=settings.max_topk), BeforeValidator(_as_json_has_it)] | None = None
        return_scores: bool = False

        @model_validator(mode="after")
        def _is_bounded(self) -> Any:
            asked = len(self.queries) * (self.topk or settings.topk)
            if asked > settings.max_passages:
                raise ValueError(f"{asked} passages asked for (queries times topk), at most {settings.max_passages}")
            return self

    return RetrieveRequest


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Answer 422 with place and reason; the input is not returned, since it may not be valid JSON."""
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "")
    if not _JSON.match(kind):
        reason = f"expected content-type: application/json, got {kind[:100] or 'none'}"
        return JSONResponse({"detail": reason}, status_code=422)
    detail = [{"loc": list(each["loc"]), "msg": each["msg"]} for each in error.errors()]
    return JSONResponse({"detail": detail}, status_code=422)


async def _refuse_http(request: Request, error: Exception) -> JSONResponse:
    """Answer a body that cannot be read with the reason; any other refusal as usual."""
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 400:
        coding = request.headers.get("content-encoding")
        detail = f"the body is compressed ({coding[:100]})" if coding else "the body cannot be read"
        detail += "; expected JSON in UTF-8 as it is, not nested deeply"
    return JSONResponse({"detail": detail}, error.status_code, error.headers)
