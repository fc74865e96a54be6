"""``python -m benchmarks.retriever.beside``: how long small requests wait beside ones with big answers.

A real server process over made-up passages. Clients that ask one query for three passages, one at a time, first alone,
then beside clients that ask for as many passages as a request may, again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.retriever.load import percentiles, queries_of
from tests.assets.retriever_data import write_made_up_corpus
from tests.assets.retriever_process import running_server
from verl_atpo.search_qa.retriever.settings import ServerSettings

RESULT = Path(__file__).resolve().parents[1] / "results" / "retriever_beside.json"
TOPK = 100


async def ask(session: aiohttp.ClientSession, url: str, queries: list[str], topk: int) -> float:
    """Seconds until the answer has been read."""
    started = time.perf_counter()
    body = {"queries": queries, "topk": topk, "return_scores": True}
    async with session.post(f"{url}/retrieve", json=body, raise_for_status=True) as response:
        await response.read()
    return time.perf_counter() - started


async def measure(url: str, queries: list[str], small: int, big: int, seconds: float) -> dict[str, Any]:
    """Seconds of small and big requests that begin within ``seconds``.

    Args:
        url: of the server.
        queries: to ask, each once.
        small, big: clients of either kind.
        seconds: how long they ask.
    """
    numbered = (f"{query} {number}" for number, query in enumerate(itertools.cycle(queries)))  # no two are equal
    most = ServerSettings().max_passages // TOPK
    taken: dict[str, list[float]] = {"small": [], "big": []}
    end = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, kind: str, number: int, topk: int) -> None:
        while time.perf_counter() < end:
            taken[kind].append(await ask(session, url, list(itertools.islice(numbered, number)), topk))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(
            *(client(session, "small", 1, 3) for _ in range(small)),
            *(client(session, "big", most, TOPK) for _ in range(big)),
        )
    return {
        "small_clients": small,
        "big_clients": big,
        **{f"{kind}_requests": len(each) for kind, each in taken.items()},
        **{f"{kind}_s": percentiles(each) for kind, each in taken.items()},
    }


def main() -> None:
    """Measure, print, write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retriever.beside", description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=20_000, help="made-up ones")
    parser.add_argument("--small", type=int, default=8, help="clients with small requests")
    parser.add_argument("--big", type=int, nargs="+", default=[0, 1, 4], help="clients with big ones beside them")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "made_up.jsonl"
        write_made_up_corpus(corpus, options.passages)
        with running_server("--corpus", str(corpus)) as server:
            runs = [
                asyncio.run(measure(server.url, queries_of(corpus), options.small, big, options.seconds))
                for big in options.big
            ]
    result = {
        "passages": options.passages, "cpus": os.cpu_count(), "load_average": os.getloadavg()[0],
        "big_request": {"queries": ServerSettings().max_passages // TOPK, "topk": TOPK}, "runs": runs,
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
