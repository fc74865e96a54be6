"""Measure the gateway: ``python -m benchmarks.gateway [--trajectories 1000] [--at-once 64] [--kill 0.2]``.

The engine is simulated. In the first part it answers at once, so all time of a call is the gateway's and the client's;
the same client also calls the same server with an empty handler. Agents of the second part are processes, a share of
which is killed: before the first call, or during or after any of them.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
from aiohttp import web
from tabulate import tabulate

from tests.assets.scripted_engine import ScriptedEngine, make_loop, run, sampled
from verl_atpo.gateway.endpoint import Endpoint
from verl_atpo.gateway.service import close_service

CALLS = 3
CLIENT = """
import http.client, json, os, signal, sys, threading, time
from urllib.parse import urlsplit
killed_at, delay, started = sys.argv[1], float(sys.argv[2]), sys.argv[3]
first = not os.path.exists(started)
open(started, "w").close()

def kill_soon(place):
    if first and place == killed_at:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if "before" not in place:
            time.sleep(0.3)

kill_soon("at the start")
url = urlsplit(os.environ["OPENAI_BASE_URL"])
server = http.client.HTTPConnection(url.hostname, url.port)
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
messages = json.load(open(os.environ["TASK_FILE"]))["messages"]
for call in range(1, CALLS + 1):
    kill_soon(f"before answer {call}")
    server.request("POST", url.path + "/chat/completions", json.dumps({"model": "m", "messages": messages}), headers)
    message = json.load(server.getresponse())["choices"][0]["message"]
    kill_soon(f"after answer {call}")
    messages += [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": "Go on."}]
json.dump({"reward": 1.0}, open(os.environ["RESULT_FILE"], "w"))
kill_soon("after the result")
""".replace("CALLS", str(CALLS))
"""A few calls; standard library only, so that a process starts fast. At its first start it is killed at one place."""
PLACES = [
    "at the start",
    *(f"{when} answer {call}" for call in range(1, CALLS + 1) for when in ("before", "after")),
    "after the result",
]
LATENCY_S = 0.05


async def talk(base_url: str, api_key: str, messages: list[dict[str, Any]], calls: int) -> list[float]:
    """Seconds of each call of a conversation that grows."""
    seconds, messages = [], list(messages)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {api_key}"}) as session:
        for _ in range(calls):
            started = time.perf_counter()
            async with session.post(f"{base_url}/chat/completions", json={"messages": messages}) as response:
                message = (await response.json())["choices"][0]["message"]
            seconds.append(time.perf_counter() - started)
            messages.append({"role": "assistant", "content": message["content"]})
            messages.append({"role": "user", "content": "Go on."})
    return seconds


@contextlib.contextmanager
def handler_times() -> Iterator[list[float]]:
    """Collect milliseconds from a request's arrival at the endpoint to its answer, the simulated engine included."""
    handle, found = Endpoint._handle, list[float]()

    async def timed(endpoint: Endpoint, request: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            return await handle(endpoint, request)
        finally:
            found.append(1000 * (time.perf_counter() - started))

    with mock.patch.object(Endpoint, "_handle", timed):
        yield found


async def calls_of_agents(calls: int, at_once: int) -> list[float]:
    """Seconds of each call of agents that run at the same time: HTTP, tokens, tool parser and all."""
    seconds: list[float] = []

    async def agent(task: Any, base_url: str, api_key: str) -> float:
        seconds.extend(await talk(base_url, api_key, task.messages, calls))
        return 1.0

    await asyncio.gather(*(run(make_loop(ScriptedEngine([ANSWER] * calls), agent)) for _ in range(at_once)))
    await close_service()
    return seconds


ANSWER = "Answer of some twenty tokens, which is what a short turn of an agent has."


@contextlib.asynccontextmanager
async def empty_server() -> AsyncIterator[str]:
    """The base URL of aiohttp's server with a handler that reads a request and gives one answer."""

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.json()
        return web.json_response({"choices": [{"message": {"content": ANSWER}}]})

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def calls_of_nothing(calls: int, at_once: int) -> list[float]:
    """Seconds of each call of the empty server, by clients on threads of their own, as agents are."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Oslo?"}]

    def client(url: str) -> list[float]:
        return asyncio.run(talk(url, "none", messages, calls))

    async with empty_server() as url:
        found = await asyncio.gather(*(asyncio.to_thread(client, url) for _ in range(at_once)))
    return [second for seconds in found for second in seconds]


async def killed(trajectories: int, at_once: int, share: float, folder: Path) -> dict[str, Any]:
    """Run agents as processes, kill a share of them, and compare every row with what the engine sampled."""
    script = folder / "agent.py"
    script.write_text(CLIENT)
    rng, slots = random.Random(0), asyncio.Semaphore(at_once)
    wrong = {"lost": 0, "doubled": 0, "mis-rewarded": 0}
    ends: collections.Counter[str] = collections.Counter()

    async def one(number: int, place: str, delay: float) -> None:
        engine = ScriptedEngine([ANSWER] * 3 * CALLS, latency_s=LATENCY_S)
        command = [sys.executable, "-S", str(script), place, str(delay), str(folder / f"started_{number}")]
        async with slots:
            rows = await run(make_loop(engine, command=command, max_crash_share=1.0))
        calls, crash = rows[0].extra_fields["agent_calls"], rows[0].extra_fields["agent_crash"] is not None
        ends[f"killed after {calls} answers" if crash else "ended well"] += 1
        ends["started again"] += not crash and place in PLACES[:2]
        tokens, expected = sampled(rows), [token for answer in engine.answers for token in answer]
        wrong["lost"] += len(tokens) < len(expected) or (not crash and calls < CALLS)
        wrong["doubled"] += len(tokens) > len(expected)
        wrong["mis-rewarded"] += rows[-1].reward_score != (None if crash else 1.0)

    started = time.perf_counter()
    plans = [
        (rng.choice(PLACES) if rng.random() < share else "nowhere", rng.uniform(0.0, 1.5 * LATENCY_S))
        for _ in range(trajectories)
    ]
    await asyncio.gather(*(one(number, *plan) for number, plan in enumerate(plans)))
    seconds = time.perf_counter() - started
    await close_service()
    return {"trajectories": trajectories, **dict(sorted(ends.items())), **wrong, "seconds": round(seconds, 1)}


def overhead(calls: int, at_once: int) -> dict[str, Any]:
    """Time calls of the gateway and of the empty server by turns, so that a busy machine slows both.

    The time in the endpoint has no change of threads in it, so it is that of a quiet machine; a whole call has two, and
    at each of them other programs may get the processor.
    """
    found: dict[str, list[float]] = {"gateway": [], "empty server": []}
    used = dict.fromkeys(found, 0.0)
    with handler_times() as in_endpoint:
        for _ in range(ROUNDS):
            for name, measure in (("gateway", calls_of_agents), ("empty server", calls_of_nothing)):
                before = time.process_time()
                found[name] += [1000 * each for each in asyncio.run(measure(calls, at_once))]
                used[name] += 1000 * (time.process_time() - before)
    columns: dict[str, Any] = {"agents at once": at_once, "calls": len(found["gateway"])}
    columns["in the endpoint: median, ms"] = round(statistics.median(in_endpoint), 2)
    for name, times in found.items():
        columns[f"{name}: median, ms"] = round(statistics.median(times), 2)
        columns[f"{name}: CPU, ms"] = round(used[name] / len(times), 2)
    return columns


ROUNDS = 5


def main() -> None:
    """Run both parts and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--calls", type=int, default=40, help="calls of an agent in the first part")
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--kill", type=float, default=0.2, help="share of agents that are killed")
    options = parser.parse_args()
    rows = [overhead(options.calls, at_once) for at_once in (1, 8)]
    print(tabulate(rows, headers="keys", tablefmt="github"))
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(killed(options.trajectories, options.at_once, options.kill, Path(folder)))
    print(tabulate([found], headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
