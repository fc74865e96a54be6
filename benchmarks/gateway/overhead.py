"""Time of a call beside the engine's: the gateway against an empty handler of the same server, in pairs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from verl.workers.rollout.replica import TokenOutput

from tests.assets.scripted_engine import SEARCH, make_loop, run, tokenizer
from verl_atpo.gateway.service import close_service

ANSWER = "Answer of some twenty tokens, which is what a short turn of an agent has."


@dataclasses.dataclass(frozen=True)
class Case:
    """Case of the measurement.

    Attributes:
        name: of the table's line.
        agents: that ask at the same time.
        calls: of each agent.
        engine_s: seconds that the simulated engine takes, and the empty handler too.
        words: of the first message, and of what comes between two answers.
        tools: whether a tool is on offer.
    """

    name: str
    agents: int
    calls: int
    engine_s: float = 0.0
    words: tuple[int, int] = (6, 2)
    tools: bool = False


CASES = (
    Case("one agent, short messages", 1, 200),
    Case("one agent, long messages, a tool", 1, 100, 0.0, (570, 28), True),
    Case("64 agents, short messages", 64, 10, 0.5),
)


class FixedEngine:
    """Answers with the same tokens after a time.

    Attributes:
        contexts: tokens of each request.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.contexts: list[int] = []
        self._ids = tokenizer().encode(f"{ANSWER}<|im_end|>", add_special_tokens=False)

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """Answer a request, and keep the length of its context."""
        self.contexts.append(len(prompt_ids))
        await asyncio.sleep(self._seconds)
        return TokenOutput(token_ids=list(self._ids), log_probs=[-0.5] * len(self._ids), extra_fields={})


@contextlib.asynccontextmanager
async def empty_server(seconds: float) -> AsyncIterator[str]:
    """Serve a handler that reads a request, waits and gives one answer; yields its base URL."""

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.json()
        await asyncio.sleep(seconds)
        return web.json_response({"choices": [{"message": {"content": ANSWER}}]})

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def pairs(case: Case) -> tuple[list[tuple[float, float]], list[int]]:
    """Time a case.

    Returns:
        Milliseconds of each call of the gateway and of the same request to the empty handler; tokens of the contexts.
    """
    engine = FixedEngine(case.engine_s)
    accesses: list[tuple[str, str]] = []
    done = threading.Event()

    def agent(task: Any, base_url: str, api_key: str) -> float:
        """Let the client ask in its place."""
        accesses.append((base_url, api_key))
        done.wait()
        return 1.0

    length = 10**6
    loops = [make_loop(engine, agent, response_length=length) for _ in range(case.agents)]
    agents = [asyncio.ensure_future(run(loop)) for loop in loops]
    try:
        async with empty_server(case.engine_s) as empty:
            while len(accesses) < case.agents:
                await asyncio.sleep(0.01)
            first, between = (" ".join(f"word{number}" for number in range(words)) for words in case.words)
            plan = {
                "agents": accesses,
                "empty": empty,
                "calls": case.calls,
                "messages": [{"role": "user", "content": first}],
                "between": [{"role": "user", "content": between}],
                "tools": [SEARCH] if case.tools else [],
            }
            return [(1000 * ours, 1000 * theirs) for ours, theirs in await _asked(plan)], engine.contexts
    finally:
        done.set()
        await asyncio.gather(*agents)
        await close_service()


async def _asked(plan: dict[str, Any]) -> list[tuple[float, float]]:
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.gateway.client", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    found, _ = await client.communicate(json.dumps(plan).encode())
    return [(ours, theirs) for ours, theirs in json.loads(found)]


def measure(case: Case) -> dict[str, Any]:
    """Measure a case; returns a line of the table.

    Processor time is that of the process which serves both, per pair of calls, starts and ends of the agents included.
    """
    started = time.process_time()
    found, contexts = asyncio.run(pairs(case))
    used = time.process_time() - started
    differences = sorted(ours - theirs for ours, theirs in found)
    return {
        "case": case.name,
        "context, tokens": f"{min(contexts)} to {max(contexts)}",
        "engine, ms": round(1000 * case.engine_s),
        "pairs": len(found),
        "gateway, ms": round(statistics.median(ours for ours, _ in found), 2),
        "empty handler, ms": round(statistics.median(theirs for _, theirs in found), 2),
        "difference: median, ms": round(statistics.median(differences), 2),
        "difference: 90 %, ms": round(differences[int(0.9 * len(differences))], 2),
        "CPU of both, ms": round(1000 * used / len(found), 2),
    }
