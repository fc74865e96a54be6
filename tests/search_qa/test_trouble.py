"""Trouble in the search server, its files and its clients stays where it is."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import random
import re
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")
pytest.importorskip("fastapi")

from aiohttp import web

from tests.assets.corpora import PASSAGES, PLAIN, post, write_corpus
from tests.assets.retriever_process import ServerProcess, running_server
from tests.assets.search_servers import ScriptedServer, fine, hits
from verl_atpo.search_qa.retriever import __main__ as program
from verl_atpo.search_qa.retriever.artifacts import DamagedError, noted
from verl_atpo.search_qa.retriever.batching import Batcher
from verl_atpo.search_qa.retriever.bm25 import Bm25Index
from verl_atpo.search_qa.retriever.client import Answer, RetrieverClient, RetrieverError
from verl_atpo.search_qa.retriever.corpus import Corpus, CorpusError

POISON = '{"id": "\\udc00", "contents": "\\"Poison\\"\\nhalf a pair: \\ud800 toxin"}'


def make_client(url: str, **settings: Any) -> RetrieverClient:
    defaults = {"topk": 2, "timeout_s": 10.0, "batch_window_s": 0.05}
    return RetrieverClient(f"{url}/retrieve", **{**defaults, "max_batch": 64, "max_requests": 4, **settings})


async def ask_all(client: RetrieverClient, queries: list[str]) -> list[Answer | BaseException]:
    return await asyncio.gather(*map(client.retrieve, queries), return_exceptions=True)


# one query's trouble


@pytest.mark.fault(
    "Search server",
    "a passage with halves of surrogate pairs, among 40 searches",
    "mended, its line named; all are answered",
)
async def test_a_passage_that_json_cannot_carry_is_mended_and_named(tmp_path: Path, caplog) -> None:
    path = write_corpus(tmp_path)
    path.write_text(path.read_text(encoding="utf-8") + f"\n{POISON}\n", encoding="utf-8")
    corpus = Corpus(path, tmp_path / "i")
    assert corpus[3] == {"id": "\ufffd", "contents": '"Poison"\nhalf a pair: \ufffd toxin'}
    assert "lines 4 hold halves of surrogate pairs" in caplog.text
    with running_server("--corpus", str(path), "--index-dir", str(tmp_path / "i")) as server:
        answers = await ask_all(make_client(server.url), [f"llama {n}" for n in range(39)] + ["toxin"])
    assert [answer.passages[0].id for answer in answers] == ["p0"] * 39 + ["\ufffd"]


@pytest.mark.fault("Search server", "lines that cannot be served", "refused, file and line named")
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"contents": ' + "[" * 100_000, "not JSON"),
        ('{"contents": "x", "id": 1e400}', "expected text or a whole number as id, got inf"),
        ('{"contents": "x", "id": [1]}', "expected text or a whole number as id"),
        ('{"contents": "x", "id": true}', "expected text or a whole number as id"),
        ('{"contents": "x", "id": ' + "1" * 5000 + "}", "not JSON"),
        ('{"contents": "' + "x" * (64 << 20) + '"}', "longer than 67108864 bytes; one passage a line"),
    ],
    ids=range(7),
)
def test_a_line_that_cannot_be_served_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"contents": "x"}}\n{line}')
    with pytest.raises(CorpusError, match=rf"bad\.jsonl, line 2: {reason}"):
        Corpus(path, tmp_path / "index")


def odd(bad: str) -> Any:
    """A server whose answer to the query ``bad`` is written as this."""

    async def behave(request: web.Request, queries: list[str]) -> web.StreamResponse:
        lists = [bad if query == "bad" else json.dumps(hits(query)) for query in queries]
        return web.Response(text=f'{{"result": [{", ".join(lists)}]}}', content_type="application/json")

    return behave


async def fails(request: web.Request, queries: list[str]) -> web.StreamResponse:
    return web.Response(status=500) if "bad" in queries else await fine(request, queries)


async def is_not_json(request: web.Request, queries: list[str]) -> web.StreamResponse:
    return web.Response(text="<html>") if "bad" in queries else await fine(request, queries)


DOCUMENT = '{"document": {"contents": "x"}, "score": %s}'
ODD = {
    "a 500": fails,
    "not JSON": is_not_json,
    "an infinite score": odd(f"[{DOCUMENT % '1e400'}]"),
    "no number": odd(f"[{DOCUMENT % 'NaN'}]"),
    "a huge integer": odd(f"[{DOCUMENT % ('1' + '0' * 400)}]"),
    "too many digits": odd(f"[{DOCUMENT % ('1' * 5000)}]"),
    "deep nesting": odd("[" * 100_000 + "]" * 100_000),
    "nesting within a hit": odd('[{"document": {"contents": "x", "id": ' + "[" * 900 + "]" * 900 + "}}]"),
    "no list": odd("3"),
    "a null": odd("[null]"),
}


@pytest.mark.fault(
    "Search server", "an odd or failing answer for one of 40 queries", "that query's outage; 39 are answered"
)
@pytest.mark.parametrize("behaviour", ODD.values(), ids=ODD.keys())
async def test_one_querys_trouble_is_its_own(behaviour: Any) -> None:
    queries = [*(f"q{n}" for n in range(39)), "bad"]
    async with ScriptedServer(*[behaviour] * 100) as server:
        *others, bad = await ask_all(make_client(server.url), queries)
    assert [answer.passages[0].contents for answer in others] == [f'"About q{n}"\nall of q{n}' for n in range(39)]
    if behaviour is ODD["nesting within a hit"]:
        assert isinstance(bad, Answer)  # json takes it, and nobody else does with an id what str does
    else:
        assert isinstance(bad, RetrieverError) and bad.passing


@pytest.mark.fault("Search server", "an answer without an end", "an outage")
async def test_an_answer_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl_atpo.search_qa.retriever.hits._MOST_BYTES", 1000)

    async def long(request: web.Request, queries: list[str]) -> web.StreamResponse:
        return web.Response(body=b" " * 2000)

    async with ScriptedServer(long) as server:
        (answer,) = await ask_all(make_client(server.url), ["q"])
    assert "more than 1000 bytes" in str(answer)


# damaged files


def built(tmp_path: Path) -> tuple[Corpus, Bm25Index]:
    corpus = Corpus(tmp_path / "corpus.jsonl", tmp_path / "i")
    return corpus, Bm25Index(corpus, tmp_path / "i", PLAIN)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scramble(path: Path) -> None:
    """Other bytes, as many, and the time of the change as it was."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(stat.st_size // 2)
        file.write(random.Random(0).randbytes(max(1, stat.st_size // 4)))
        file.truncate(stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nest(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


DAMAGES = [cut, scramble, empty, nest, Path.unlink]


@pytest.mark.fault(
    "Search server", "each index file cut, scrambled, emptied, nested or removed", "named in a warning, rebuilt"
)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_a_damaged_index_is_built_anew(tmp_path: Path, caplog, damage: Any) -> None:
    write_corpus(tmp_path)
    _, index = built(tmp_path)
    expected = index.search(["camelid", "lake"], 3)
    files = sorted(path for path in (tmp_path / "i").glob("*/*") if path.stat().st_size)
    assert len(files) >= 8
    for path in files:
        caplog.clear()
        damage(path)
        corpus, index = built(tmp_path)
        assert index.search(["camelid", "lake"], 3) == expected, path
        assert [corpus[n]["contents"] for n in range(3)] == PASSAGES
        assert f"{path} is damaged" in caplog.text or (damage is Path.unlink and path.name == "fingerprint.json")


@pytest.mark.fault("Search server", "a corpus of other content, same size and time", "rebuilt")
def test_a_corpus_that_changed_without_a_trace_is_noticed(tmp_path: Path) -> None:
    path = write_corpus(tmp_path)
    built(tmp_path)
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"fibre", b"wools"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    _, index = built(tmp_path)
    assert [place for place, _ in index.search(["wools"], 3)[0]] == [1]


@pytest.mark.fault("Search server", "a corpus changed while it is served", "503 that names file, place and remedy")
@pytest.mark.parametrize("damage", [cut, scramble, empty], ids=lambda each: each.__name__)
def test_a_passage_that_changes_while_it_is_served_is_noticed(tmp_path: Path, damage: Any) -> None:
    path = write_corpus(tmp_path)
    corpus, _ = built(tmp_path)
    damage(path)
    with pytest.raises(
        DamagedError, match=r"corpus\.jsonl was changed while it was served \(passage \d, at byte \d+\)"
    ):
        [corpus[n] for n in range(3)]


def test_a_corpus_that_is_replaced_or_touched_is_served_as_it_was(tmp_path: Path) -> None:
    path = write_corpus(tmp_path)
    corpus, index = built(tmp_path)
    os.utime(path)
    for part in (tmp_path / "i").glob("*/*"):
        os.utime(part)
        os.link(part, tmp_path / part.name) if not (tmp_path / part.name).exists() else None
    other = tmp_path / "other"
    other.write_text("{}")
    other.replace(path)
    corpus.check()
    index.check()
    assert [corpus[n]["contents"] for n in range(3)] == PASSAGES


@pytest.mark.fault("Search server", "an index changed while it is served", "503 that names file and remedy")
@pytest.mark.parametrize("damage", [cut, scramble, empty], ids=lambda each: each.__name__)
def test_a_server_whose_files_change_says_so_and_stays_up(tmp_path: Path, damage: Any) -> None:
    path = write_corpus(tmp_path)
    for file, remedy in [("bm25/*indices*", "remove the folder"), ("lines/offsets.npy", "remove the folder"), ("", "")]:
        with running_server("--corpus", str(path), "--index-dir", str(tmp_path / "i")) as server:
            assert post(server.url, {"queries": ["llama"]})[0] == 200
            victim = next((tmp_path / "i").glob(file)) if file else path
            damage(victim)
            code, said = post(server.url, {"queries": ["lake", "llama"], "topk": 3})
            assert code == 503 and f"{victim} was changed while it was served" in said["detail"], said
            assert remedy in said["detail"] and "Stop the server" in said["detail"]
            if file:
                assert post(server.url, None, path="/health")[0] in (405, 503)
                with pytest.raises(urllib.error.HTTPError, match="503"):
                    urllib.request.urlopen(f"{server.url}/health")
            assert server.process.poll() is None


@pytest.mark.fault("Search server", "a ready-made index that is damaged", "refused, file and remedy named")
def test_a_ready_made_index_that_is_damaged_is_refused(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    dense = pytest.importorskip("verl_atpo.search_qa.retriever.dense")
    whole = tmp_path / "whole.faiss"
    faiss.write_index(faiss.IndexFlatIP(8), str(whole))
    for damage in (empty, cut, nest):
        path = tmp_path / "damaged.faiss"
        path.write_bytes(whole.read_bytes())
        damage(path)
        with pytest.raises(ValueError, match=r"damaged\.faiss: not a FAISS index, or damaged .*fetch it again"):
            dense._read(path)


@pytest.mark.fault("Search server", "a ready-made index that changed since it was first served", "refused by checksum")
@pytest.mark.parametrize("damage", [cut, scramble, empty], ids=lambda each: each.__name__)
def test_a_ready_made_index_is_compared_with_what_was_first_served(tmp_path: Path, damage: Any) -> None:
    path, note = tmp_path / "e5.index", tmp_path / "i" / "note.json"
    path.write_bytes(random.Random(1).randbytes(1000))
    noted(path, note).check()
    os.utime(path)
    noted(path, note).check()
    damage(path)
    with pytest.raises(
        DamagedError, match=r"e5\.index is not what it was when it was first served .*fetch it again, or r"
    ):
        noted(path, note)
    note.write_text("[")  # a note that cannot be read is made anew, as for another file
    noted(path, note).check()
    path.rename(tmp_path / "other.index")
    noted(tmp_path / "other.index", note).check()


# clients that want too much, or are too slow


@pytest.mark.fault("Search server", "a request for much beside requests for little", "they take turns")
async def test_sources_take_turns_and_batches_cost_little() -> None:
    batches: list[list[str]] = []

    async def run(items: list[str]) -> list[str]:
        batches.append(items)
        await asyncio.sleep(0)
        return items

    batcher = Batcher(run, max_batch=8, window_s=0.001, concurrency=1, cost=len, max_cost=40)
    big = [asyncio.create_task(batcher.submit(f"b{n:09}", "big")) for n in range(40)]
    await asyncio.sleep(0)
    small = [asyncio.create_task(batcher.submit("s", source)) for source in ("one", "other")]
    huge = asyncio.create_task(batcher.submit("h" * 100, "huge"))
    await asyncio.gather(*big, *small, huge)
    places = {item: place for place, batch in enumerate(batches) for item in batch}
    assert places["s"] == 1 and places["h" * 100] <= 2  # the first batch had left
    assert all(sum(map(len, batch)) <= 40 or len(batch) == 1 for batch in batches)
    assert sorted(item for batch in batches for item in batch if item[0] == "b") == [f"b{n:09}" for n in range(40)]


async def test_an_exception_in_place_of_a_result_is_its_callers_alone() -> None:
    async def run(items: list[int]) -> list[int | Exception]:
        return [KeyError(item) if item == 2 else item for item in items]

    batcher: Batcher[int, int] = Batcher(run, max_batch=9, window_s=0.01, concurrency=1)
    results = await asyncio.gather(*map(batcher.submit, range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [int, int, KeyError, int]


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("impatient")
    long = [f'"Number {n}"\n' + "camelid and more " * 4000 for n in range(100)]
    arguments = ["--corpus", str(write_corpus(folder, long)), "--patience-s", "1", "--max-passages", "2000"]
    with running_server(*arguments) as server:
        yield server


@contextlib.contextmanager
def connected(server: ServerProcess) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        yield connection


def all_of(connection: socket.socket) -> bytes:
    """What is received until the other end closes; fails if it does not within a minute."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            received += data
    return received


HEADERS = b"POST /retrieve HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
HALVES = {
    "nothing": b"",
    "half a line": b"POST /ret",
    "half of the headers": HEADERS[:40],
    "half of a body": HEADERS % 40 + b'{"queries": ',
}


@pytest.mark.fault("Search server", "clients that stop in a request", "408")
@pytest.mark.parametrize("half", HALVES)
def test_a_client_that_stops_in_a_request_is_let_go(impatient: ServerProcess, half: str) -> None:
    with connected(impatient) as connection:
        connection.sendall(HALVES[half])
        said = all_of(connection)
    assert said.startswith(b"HTTP/1.1 408 Request Timeout")
    assert post(impatient.url, {"queries": ["none"]})[0] == 200


@pytest.mark.fault("Search server", "a client that stops in its second request", "408")
def test_a_client_that_stops_in_its_second_request_is_let_go(impatient: ServerProcess) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hea")
        assert b"HTTP/1.1 408" in all_of(connection)


@pytest.mark.fault("Search server", "a client that sends drop by drop", "408")
def test_a_client_that_sends_drop_by_drop_is_let_go(impatient: ServerProcess) -> None:
    with connected(impatient) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(0.05)
        for drop in b"GET /health HTTP/1.1\r\nx: " + b"y" * 500:
            connection.sendall(bytes([drop]))
            with contextlib.suppress(TimeoutError):
                if b"408" in connection.recv(1000):
                    return
            time.sleep(0.01)
        pytest.fail("it was still listened to")


@pytest.mark.fault("Search server", "headers without an end", "431")
def test_headers_without_an_end_are_refused(impatient: ServerProcess) -> None:
    with connected(impatient) as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"GET /health HTTP/1.1\r\n" if not _ else b"x: " + b"y" * 4000 + b"\r\n")
        assert b" 431 " in all_of(connection)


@pytest.mark.fault("Search server", "a client that does not take its answer", "cut off")
def test_a_client_that_does_not_take_its_answer_is_let_go(impatient: ServerProcess) -> None:
    body = json.dumps({"queries": ["camelid"] * 4, "topk": 100}).encode()
    with connected(impatient) as connection:
        connection.sendall(HEADERS % len(body) + body)
        process = impatient.serving
        size = 4 * 100 * 17 * 4000
        for there in (True, False):  # it comes, and it goes
            for _ in range(600):
                if bool(connections(process)) is there:
                    break
                time.sleep(0.1)
        assert len(all_of(connection)) < size
    assert post(impatient.url, {"queries": ["none"]})[0] == 200


def connections(process: psutil.Process) -> int:
    return sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp"))


BODY = b'{"queries": ["camelid"]}'
CLOSE = b"host: x\r\nconnection: close\r\n"
POST = b"POST /retrieve HTTP/1.1\r\ncontent-type: application/json\r\n" + CLOSE
ODD_REQUESTS: dict[str, tuple[bytes, int]] = {
    "two lengths": (POST + b"content-length: 3\r\ncontent-length: 24\r\n\r\n" + BODY, 400),
    "a length and chunks": (POST + b"content-length: 24\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a negative length": (POST + b"content-length: -1\r\n\r\n" + BODY, 400),
    "a length beyond 64 bits": (POST + b"content-length: 99999999999999999999\r\n\r\n" + BODY, 400),
    "a chunk without a size": (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    "chunks without an end": (
        POST + b"transfer-encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 100,
        413,
    ),
    "another version of HTTP": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + b"x" * 200, 400),
    "a websocket": (
        b"GET /retrieve HTTP/1.1\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n" + CLOSE + b"\r\n",
        405,
    ),
    "a NUL in a header": (b"GET /health HTTP/1.1\r\nx: a\0b\r\n" + CLOSE + b"\r\n", 400),
    "a way out of the root": (b"GET /../../etc/passwd HTTP/1.1\r\n" + CLOSE + b"\r\n", 404),
    "TRACE": (b"TRACE /retrieve HTTP/1.1\r\n" + CLOSE + b"\r\n", 405),
    "a number of 100,000 digits": (
        POST + b"content-length: 100035\r\n\r\n" + BODY[:-1] + b', "x": %b}' % (b"9" * 100_000) + b"     ",
        400,
    ),
}


@pytest.mark.fault("Search server", "requests that are not HTTP, or bend it, in thirteen ways", "refused; it stays up")
@pytest.mark.parametrize(("request_bytes", "status"), ODD_REQUESTS.values(), ids=ODD_REQUESTS.keys())
def test_a_request_that_bends_http_is_refused(impatient: ServerProcess, request_bytes: bytes, status: int) -> None:
    with connected(impatient) as connection:
        with contextlib.suppress(ConnectionError):  # it may be refused before it has been sent
            connection.sendall(request_bytes)
        said = all_of(connection)
    assert said.startswith(b"HTTP/1.1 %d " % status), said[:200]
    assert post(impatient.url, {"queries": ["none"]})[0] == 200
    assert "Traceback" not in impatient.log()


UNREAD = {
    "compressed": (b"application/json", b"content-encoding: gzip\r\n", gzip.compress(BODY), 400, b"compressed (gzip)"),
    "nested": (b"application/json", b"", b"[" * 200_000, 400, b"expected JSON in UTF-8 as it is, not nested deeply"),
    "Latin 1": (b"application/json", b"", b'{"queries": ["caf\xe9"]}', 400, b"expected JSON in UTF-8"),
    "a form": (b"application/x-www-form-urlencoded", b"", b"queries=x", 422, b"got application/x-www-form-urlencoded"),
    "text": (b"text/plain", b"", BODY, 422, b"expected content-type: application/json, got text/plain"),
    "half a pair": (b"application/json", b"", b'{"queries": ["\\ud800"]}', 422, b'"queries",0'),
    "a NUL": (b"application/json", b"", b'{"queries": ["a\0"]}', 422, b"JSON decode error"),
    "a list of lists": (b"application/json", b"", b'{"queries": [["x"]]}', 422, b"valid string"),
    "null": (b"application/json", b"", b"null", 422, b"Field required"),
}


@pytest.mark.fault("Search server", "bodies that cannot be read, in nine ways", "400 or 422 with the reason")
@pytest.mark.parametrize(("kind", "more", "body", "status", "words"), UNREAD.values(), ids=UNREAD.keys())
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(impatient, kind, more, body, status, words) -> None:
    head = b"POST /retrieve HTTP/1.1\r\n" + CLOSE + more + b"content-type: %b\r\ncontent-length: %d\r\n\r\n"
    with connected(impatient) as connection:
        connection.sendall(head % (kind, len(body)) + body)
        said = all_of(connection)
    assert said.startswith(b"HTTP/1.1 %d " % status) and words in said, said
    assert "Traceback" not in impatient.log()


@pytest.mark.fault("Search server", "2,000 requests in one go from a client that leaves", "dropped silently")
def test_requests_in_one_go_of_a_client_that_leaves_are_dropped(impatient: ServerProcess) -> None:
    for number in (100, 2000):
        with connected(impatient) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * number)
            assert connection.recv(3000).startswith(b"HTTP/1.1 200 OK")
    time.sleep(1)  # in which the requests that it still works on would be answered
    assert post(impatient.url, {"queries": ["none"]})[0] == 200
    assert "Traceback" not in impatient.log()


@pytest.mark.fault("Search server", "800 idle connections, and 200 that break off", "cut off; it answers meanwhile")
def test_connections_beyond_number_are_let_go(impatient: ServerProcess) -> None:
    before = impatient.serving.num_fds()
    with contextlib.ExitStack() as stack:
        for _ in range(800):
            stack.enter_context(connected(impatient))
        assert post(impatient.url, {"queries": ["none"]})[0] == 200
    for _ in range(200):
        with connected(impatient) as connection:
            connection.sendall(HEADERS % len(BODY) + BODY)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    deadline = time.monotonic() + 60
    while impatient.serving.num_fds() > before + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert impatient.serving.num_fds() <= before + 5
    assert post(impatient.url, {"queries": ["none"]})[0] == 200


@pytest.mark.fault("Search server", "a request for too many passages", "422")
def test_a_request_for_too_much_is_refused(impatient: ServerProcess) -> None:
    code, said = post(impatient.url, {"queries": ["x"] * 21, "topk": 100})
    assert code == 422 and "2100 passages asked for (queries times topk), at most 2000" in json.dumps(said)


@pytest.mark.fault("Search server", "a stop with idle, slow and waiting clients", "ends in seconds, exit code 0")
def test_a_stop_waits_for_nobody_for_long(tmp_path: Path) -> None:
    """Not for an idle client, half a request, an answer that is not taken, or a query that waits for company."""
    long = [f'"Number {n}"\n' + "camelid and more " * 4000 for n in range(100)]
    arguments = ["--corpus", str(write_corpus(tmp_path, long)), "--batch-window-ms", "100000", "--patience-s", "1000"]
    assert program._GRACE_S + program._LAST_SEARCH_S <= 4
    with running_server(*arguments) as server, contextlib.ExitStack() as open_connections:
        body = json.dumps({"queries": ["camelid"] * 64, "topk": 100}).encode()
        waits = json.dumps({"queries": ["camelid"]}).encode()
        for sent in (b"", b"POST", HEADERS % len(body) + body, HEADERS % len(waits) + waits):
            open_connections.enter_context(connected(server)).sendall(sent)
        server.process.terminate()
        assert server.process.wait(30) == 0  # without an end to its patience it waited 100 s


CUT_WHILE_SEARCHED = """
import os, sys
from pathlib import Path
from verl_atpo.search_qa.retriever import __main__ as program
from verl_atpo.search_qa.retriever.bm25 import Bm25Index

find, files = Bm25Index.search, Path(sys.argv.pop(1))

def search(self, queries, topk):
    if "cut" in queries:
        for path in files.glob("*/*.npy"):
            os.truncate(path, 0)
    return find(self, ["llama"], topk)

Bm25Index.search = search
sys.exit(program.restarted(program.main))
"""


@pytest.mark.fault("Search server", "an index file cut short between check and search", "started again, rebuilt")
def test_a_server_that_dies_of_a_file_cut_short_is_started_again(tmp_path: Path) -> None:
    """The system kills whoever reads a mapped file behind its new end: no check can come early enough."""
    arguments = ["--corpus", str(write_corpus(tmp_path)), "--index-dir", str(tmp_path / "i")]
    with running_server(*arguments, program=("-c", CUT_WHILE_SEARCHED, str(tmp_path / "i"))) as server:
        first = server.serving
        with pytest.raises(OSError):
            post(server.url, {"queries": ["cut"]})
        while len(addresses := re.findall(r"http://[\d.]+:\d+", server.log())) < 2:
            assert server.process.poll() is None
            time.sleep(0.05)
        assert server.serving != first and "A file was truncated while it was read" in server.log()
        code, said = 0, None
        while code != 200:  # it is built first
            assert server.process.poll() is None
            with contextlib.suppress(OSError):
                code, said = post(addresses[1], {"queries": ["llama"]})
        assert said["result"][0][0]["id"] == "p0"
        assert re.search(r"WARNING .* is damaged, so the folder is rebuilt", server.log())
        server.process.terminate()
        assert server.process.wait(30) == 0


@pytest.mark.fault("Search server", "the first of its two processes killed", "the other one ends")
def test_no_server_stays_behind(tmp_path: Path) -> None:
    with running_server("--corpus", str(write_corpus(tmp_path))) as server:
        serving = server.serving
        server.process.kill()
        serving.wait(30)


ENDLESS_SEARCH = """
import sys, time
from verl_atpo.search_qa.retriever import __main__ as program
from verl_atpo.search_qa.retriever.bm25 import Bm25Index

find = Bm25Index.search

def search(self, queries, topk):
    if "endless" in queries:
        print("searching", file=sys.stderr, flush=True)
        time.sleep(1000)
    return find(self, queries, topk)

Bm25Index.search = search
sys.exit(program.main(sys.argv[1:]))
"""


@pytest.mark.fault("Search server", "a stop while a search does not end", "ends in seconds, exit code 0")
def test_a_stop_does_not_wait_for_a_search_without_an_end(tmp_path: Path) -> None:
    """Python itself would wait for the thread for ever when it exits."""
    arguments = ["--corpus", str(write_corpus(tmp_path)), "--port", "0"]
    with running_server(*arguments, program=("-c", ENDLESS_SEARCH)) as server, connected(server) as connection:
        body = json.dumps({"queries": ["endless"]}).encode()
        connection.sendall(HEADERS % len(body) + body)
        while "searching" not in server.log():
            time.sleep(0.05)
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert "Stopped by SIGTERM" in server.log()


@pytest.mark.fault("Search server", "odd arguments of the command", "refused by name")
@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--port", "-1"], ["--port", "x"], ["--topk", "nan"]])
def test_odd_arguments_are_refused(tmp_path: Path, capsys, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--corpus", str(write_corpus(tmp_path)), *arguments])
    assert ended.value.code == 2 and f"Error parsing {arguments[0]}" in capsys.readouterr().err


@pytest.mark.fault("Search server", "nan for a number of seconds", "refused by name")
def test_a_window_that_is_no_number_is_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--corpus", str(write_corpus(tmp_path)), "--port", "0", "--batch-window-ms", "nan"])
    assert ended.value.code == 2 and "batch_window_s=nan cannot work" in capsys.readouterr().err
