"""``python -m benchmarks.retriever.load``: the server under the load of many agents.

A real server process on loopback, this process as its clients. Each of ``--clients`` asks one query at a time, again
and again, all starting at once: 1408 are the paper's 64 prompts with 22 leaves. Two ways: ``direct``, a connection per
client and a request per query (the hardest case), and ``tool``, as rollout workers do, batched by the search tool's
client. ``/health`` is asked all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tests.assets.retriever_data import QA_DATA, data_file, minilm_folder, read_questions, write_made_up_corpus
from tests.assets.retriever_process import ServerProcess, running_server
from verl_atpo.search_qa.retriever.client import RetrieverClient, RetrieverError
from verl_atpo.search_qa.search_tool import SearchConfig

PAPERS_AGENTS = 64 * 22
_HEALTH_PERIOD_S = 0.2
_TIMEOUT_S = 60.0

Ask = Callable[[str], Awaitable[int]]
"""Asks one query, gives the number of passages."""


async def measure(url: str, queries: list[str], clients: int, requests: int, way: str) -> dict[str, Any]:
    """Ask ``requests`` queries by ``clients`` concurrent clients; seconds and counts."""
    latencies: list[float] = []
    failures: list[str] = []
    empty = 0
    numbered = (f"{query} {number}" for number, query in enumerate(itertools.cycle(queries)))  # no two are equal
    questions = itertools.islice(numbered, requests)

    async def client(ask: Ask) -> None:
        nonlocal empty
        for query in questions:  # shared: the clients take turns
            started = time.perf_counter()
            try:
                empty += await ask(query) == 0
                latencies.append(time.perf_counter() - started)
            except (aiohttp.ClientError, asyncio.TimeoutError, RetrieverError) as error:
                failures.append(repr(error))

    async with AsyncExitStack() as stack:
        ask = await (_direct if way == "direct" else _tool)(url, clients, stack)
        health: list[float] = []
        probe = asyncio.create_task(_probe(url, health))
        started = time.perf_counter()
        await asyncio.gather(*(client(ask) for _ in range(clients)))
        seconds = time.perf_counter() - started
        probe.cancel()
    return {
        "way": way,
        "clients": clients,
        "answered": len(latencies),
        "failed": len(failures),
        "first_failures": failures[:3],
        "without_passages": empty,
        "seconds": round(seconds, 3),
        "queries_per_s": round(len(latencies) / seconds, 1),
        "latency_s": percentiles(latencies),
        "health_s": percentiles(health),
    }


async def _direct(url: str, clients: int, stack: AsyncExitStack) -> Ask:
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=clients), timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
        )
    )

    async def ask(query: str) -> int:
        body = {"queries": [query], "topk": 3, "return_scores": True}
        async with session.post(f"{url}/retrieve", json=body, raise_for_status=True) as response:
            return len((await response.json())["result"][0])

    return ask


async def _tool(url: str, clients: int, stack: AsyncExitStack) -> Ask:
    settings = SearchConfig(url=url)
    client = RetrieverClient(
        settings.endpoint,
        topk=settings.topk,
        timeout_s=_TIMEOUT_S,
        batch_window_s=settings.batch_window_s,
        max_batch=settings.max_batch,
        max_requests=settings.max_requests,
    )

    async def ask(query: str) -> int:
        return len((await client.retrieve(query)).passages)

    return ask


async def _probe(url: str, seconds: list[float]) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            started = time.perf_counter()
            async with session.get(f"{url}/health", raise_for_status=True):
                seconds.append(time.perf_counter() - started)
            await asyncio.sleep(_HEALTH_PERIOD_S)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median, upper percentiles and maximum; empty for nothing."""
    if not seconds:
        return {}
    marks = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(seconds, mark)), 4) for name, mark in marks.items()}


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start a server, load it in each way, stop it."""
    corpus, queries = _inputs(options, folder)
    arguments = ["--corpus", str(corpus), "--index-dir", str(folder / "index"), "--method", options.method]
    if options.method == "dense":
        arguments += ["--model", options.model, "--device", "cpu"]
    started = time.perf_counter()
    with running_server(*arguments, *options.server_arguments, ready_s=3600.0) as server:
        ready_s = time.perf_counter() - started
        runs = []
        for way in options.ways:
            before = _cpu_s(server)
            figures = asyncio.run(measure(server.url, queries, options.clients, options.requests, way))
            used = _cpu_s(server) - before
            per_cpu_s = round(figures["answered"] / used, 1)
            runs.append({**figures, "server_cpu_s": round(used, 2), "queries_per_server_cpu_s": per_cpu_s})
        memory = _memory(server)
        exit_code = server.stop()
    return {
        "method": options.method,
        "model": Path(options.model).parent.name if options.method == "dense" else None,
        "passages": options.made_up or sum(1 for _ in corpus.open("rb")),
        "corpus": "made up" if options.made_up else corpus.name,
        "corpus_bytes": corpus.stat().st_size,
        "index_bytes": sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file()),
        "cpus": os.cpu_count(),
        "load_average_before": options.load_average,
        "ready_s": round(ready_s, 1),
        **memory,
        "exit_code": exit_code,
        "runs": runs,
    }


def _inputs(options: argparse.Namespace, folder: Path) -> tuple[Path, list[str]]:
    if not options.made_up:
        return options.corpus, [row["question"] for row in read_questions(options.queries)]
    corpus = folder / "made_up.jsonl"
    write_made_up_corpus(corpus, options.made_up)
    return corpus, queries_of(corpus)


def queries_of(corpus: Path) -> list[str]:
    """The first words of the first passages."""
    with corpus.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["contents"].split("\n", 1)[1].split() for line in itertools.islice(lines, 1000)]
    return [" ".join(words[:8]) for words in texts]


def _cpu_s(server: ServerProcess) -> float:
    """Processor time of the server so far: on a machine that others use too, more telling than the clock."""
    times = server.serving.cpu_times()
    return times.user + times.system


def _memory(server: ServerProcess) -> dict[str, int]:
    found = server.serving.memory_full_info()
    return {"resident_bytes": found.rss, "unique_bytes": found.uss}


def _table(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['method']}, {result['passages']} passages, {result['cpus']} CPUs, ready in {result['ready_s']} s"
    yield "way     clients  queries  failed  queries/s  per CPU s   p50 s   p95 s   p99 s  health p99 s"
    for each in result["runs"]:
        late = each["latency_s"]
        yield (
            f"{each['way']:7} {each['clients']:7} {each['answered']:8} {each['failed']:7} {each['queries_per_s']:10}"
            f" {each['queries_per_server_cpu_s']:10}"
            f" {late['p50']:7.3f} {late['p95']:7.3f} {late['p99']:7.3f} {each['health_s']['p99']:13.3f}"
        )


def main() -> int:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retriever.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Further arguments go to the server.",
    )
    parser.add_argument("--corpus", type=Path, default=data_file("corpus"), help=f"passages (default: of {QA_DATA})")
    parser.add_argument(
        "--queries", type=Path, default=data_file("questions"), help=f"questions (default: of {QA_DATA})"
    )
    parser.add_argument("--made-up", type=int, default=0, metavar="N", help="instead: N made-up passages")
    parser.add_argument("--method", choices=["bm25", "dense"], default="bm25")
    parser.add_argument("--model", default=str(minilm_folder() or "sentence-transformers/all-MiniLM-L6-v2"))
    parser.add_argument("--clients", type=int, default=PAPERS_AGENTS)
    parser.add_argument("--requests", type=int, default=5 * PAPERS_AGENTS, help="queries in all, for each way")
    parser.add_argument("--ways", nargs="+", choices=["direct", "tool"], default=["direct", "tool"])
    parser.add_argument("--out", type=Path, help="where the figures go (default: benchmarks/results/)")
    options, options.server_arguments = parser.parse_known_args()
    if not options.made_up and None in (options.corpus, options.queries):
        parser.error(f"give --corpus and --queries, a folder that has both in {QA_DATA}, or --made-up N")
    options.load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, Path(folder))
    name = f"retriever_{result['method']}_{result['passages']}.json"
    out = options.out or Path(__file__).resolve().parents[1] / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(_table(result)))
    return 0 if all(each["failed"] == 0 for each in result["runs"]) and result["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
