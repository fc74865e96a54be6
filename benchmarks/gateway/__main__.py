"""Measure the gateway: ``python -m benchmarks.gateway [--trajectories 1000] [--at-once 64] [--kill 0.2]``.

The engine is simulated and answers at once, so all time of a call is the gateway's and the client's. Agents of the
second part are processes, a share of which is killed at a random moment.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.gateway.scripted import ScriptedEngine, make_loop, run, sampled
from verl_atpo.gateway.service import close_service

CLIENT = """
import json, os, urllib.request
url, key = os.environ["OPENAI_BASE_URL"] + "/chat/completions", os.environ["OPENAI_API_KEY"]
messages = json.load(open(os.environ["TASK_FILE"]))["messages"]
for _ in range(3):
    body = json.dumps({"model": "m", "messages": messages}).encode()
    request = urllib.request.Request(url, body, {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    message = json.load(urllib.request.urlopen(request))["choices"][0]["message"]
    messages += [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": "Go on."}]
json.dump({"reward": 1.0}, open(os.environ["RESULT_FILE"], "w"))
"""
"""Three calls; standard library only, so that a process starts fast."""


async def overhead(calls: int, at_once: int) -> list[float]:
    """Seconds of each call of agents that run at the same time: HTTP, tokens, tool parser and all."""
    import aiohttp

    seconds: list[float] = []

    async def agent(task: Any, base_url: str, api_key: str) -> float:
        messages = list(task.messages)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {api_key}"}) as session:
            for _ in range(calls):
                started = time.perf_counter()
                async with session.post(f"{base_url}/chat/completions", json={"messages": messages}) as response:
                    message = (await response.json())["choices"][0]["message"]
                seconds.append(time.perf_counter() - started)
                messages.append({"role": "assistant", "content": message["content"]})
                messages.append({"role": "user", "content": "Go on."})
        return 1.0

    await asyncio.gather(*(run(make_loop(ScriptedEngine(_answer), agent)) for _ in range(at_once)))
    await close_service()
    return seconds


def _answer(context: str) -> str:
    return f"Answer {context.count('Go on.')} of some twenty tokens, which is what a short turn of an agent has."


async def killed(trajectories: int, at_once: int, share: float, folder: Path) -> dict[str, Any]:
    """Run agents as processes, kill a share of them, and compare every row with what the engine sampled."""
    script = folder / "agent.py"
    script.write_text(CLIENT)
    rng, slots = random.Random(0), asyncio.Semaphore(at_once)
    wrong = {"lost": 0, "doubled": 0, "mis-rewarded": 0}
    crashed = silent = 0

    async def one(number: int) -> None:
        nonlocal crashed, silent
        engine = ScriptedEngine(_answer, latency_s=0.05)
        kill = f"import signal, threading; threading.Timer({rng.uniform(0.0, 0.4)}, os.kill, (os.getpid(), 9)).start()"
        body = CLIENT.replace("for _ in", f"{kill}\nfor _ in") if rng.random() < share else CLIENT
        own = folder / f"agent_{number}.py"
        own.write_text(body)
        async with slots:
            try:
                rows = await run(make_loop(engine, command=[sys.executable, "-S", str(own)], max_crash_share=1.0))
            except Exception:  # killed before it asked once: nothing to train
                silent += 1
                wrong["lost"] += bool(engine.answers)
                return
        crash = rows[0].extra_fields["agent_crash"] is not None
        crashed += crash
        tokens, expected = sampled(rows), [token for answer in engine.answers for token in answer]
        wrong["lost"] += len(tokens) < len(expected)
        wrong["doubled"] += len(tokens) > len(expected)
        wrong["mis-rewarded"] += rows[-1].reward_score != (None if crash else 1.0)

    started = time.perf_counter()
    await asyncio.gather(*map(one, range(trajectories)))
    seconds = time.perf_counter() - started
    await close_service()
    counts = {"trajectories": trajectories, "killed after a call": crashed, "killed before any": silent, **wrong}
    return {**counts, "seconds": round(seconds, 1)}


def main() -> None:
    """Run both parts and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--calls", type=int, default=40, help="calls of an agent in the first part")
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--kill", type=float, default=0.2, help="share of agents that are killed")
    options = parser.parse_args()
    rows = []
    for at_once in (1, 8):
        used = time.process_time()
        seconds = sorted(1000 * each for each in asyncio.run(overhead(options.calls, at_once)))
        rows.append(
            {
                "agents at once": at_once,
                "calls": len(seconds),
                "CPU ms a call": round(1000 * (time.process_time() - used) / len(seconds), 2),
                "median ms a call": round(statistics.median(seconds), 2),
                "90 %": round(seconds[int(0.9 * len(seconds))], 2),
            }
        )
    print(tabulate(rows, headers="keys", tablefmt="github"))
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(killed(options.trajectories, options.at_once, options.kill, Path(folder)))
    print(tabulate([found], headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
