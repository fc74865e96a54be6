"""The search server's interface, fuzzed from its own description of it (OpenAPI) with a fixed budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")
pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.assets.corpora import PASSAGES, PLAIN, write_corpus
from verl_atpo.search_qa.retriever.bm25 import Bm25Index
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.server import ServerSettings, create_app

LIMITS = ServerSettings(topk=2, max_topk=5, max_queries=8, max_query_chars=60, max_passages=40, max_body_bytes=20_000)
DOCUMENTED = {"/retrieve": {200, 400, 413, 422}, "/health": {200}}
"""Statuses of docs/retriever.md, without those that need a slow client, another path or method, or damage."""
BUDGET = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    corpus = Corpus(write_corpus(folder, PASSAGES), folder / "i")
    return create_app(corpus, Bm25Index(corpus, folder / "i", PLAIN), LIMITS)


@pytest.fixture(scope="module")
def operations(app: Any) -> list[Any]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = [each.ok() for each in schema.get_all_operations()]
    assert {operation.path for operation in found} == set(DOCUMENTED)
    return found


@pytest.mark.fault("Search server", "requests made from its OpenAPI description", "the documented answer")
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@given(data=st.data())
@BUDGET
def test_every_answer_is_as_described(operations: list[Any], mode: Any, data: st.DataObject) -> None:
    """Status, content type and body conform; no 5xx; what the schema forbids is refused, what it allows is not."""
    case = data.draw(st.sampled_from(operations).flatmap(lambda each: each.as_strategy(generation_mode=mode)))
    response = case.call_and_validate(excluded_checks=[schemathesis.checks.unsupported_method])
    assert response.status_code in {*DOCUMENTED[case.operation.path], 404, 405}


ODD_BODIES = st.one_of(
    st.binary(max_size=200),
    st.integers(1, 30_000).map(lambda depth: b"[" * depth),
    st.integers(1, 30_000).map(lambda depth: b'{"queries": ["x"], "pad": ' + b"[" * depth + b"]" * depth + b"}"),
    st.sampled_from(
        [b'{"queries": ["x"], "topk": 1e400}', b'{"queries": ["\\ud800"]}', b'{"queries": ["x"], "topk": NaN}']
    ),
    st.text(max_size=70).map(lambda query: f'{{"queries": ["{query}"]}}'.encode("utf-8", "surrogatepass")),
)
TYPES = st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", "", "a/b; c=\x7f"])


@pytest.mark.fault("Search server", "bodies that are no JSON, or odd JSON, under odd content types", "400, 413 or 422")
@given(body=ODD_BODIES, kind=TYPES)
@BUDGET
def test_odd_bodies_get_a_documented_answer(app: Any, body: bytes, kind: str) -> None:
    response = TestClient(app).post("/retrieve", content=body, headers={"content-type": kind})
    assert response.status_code in DOCUMENTED["/retrieve"]
    assert response.status_code in (200, 413) or response.json()["detail"]
