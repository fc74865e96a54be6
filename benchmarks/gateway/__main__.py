"""Measure the gateway: ``python -m benchmarks.gateway [--trajectories 1000] [--at-once 64] [--kill 0.2]``.

The engine is simulated. In the first part a client, a process of its own, sends each request to the gateway and to an
empty handler of the same server, by turns: the difference is the gateway's. Agents of the second part are processes, a
share of which is killed: before the first call, or during or after any of them. ``--trajectories 0`` leaves it out.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.gateway.overhead import ANSWER, CASES, measure
from tests.assets.scripted_engine import ScriptedEngine, make_loop, run, sampled
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


def main() -> None:
    """Run both parts and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--kill", type=float, default=0.2, help="share of agents that are killed")
    options = parser.parse_args()
    print(tabulate([measure(case) for case in CASES], headers="keys", tablefmt="github"), flush=True)
    if options.trajectories == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(killed(options.trajectories, options.at_once, options.kill, Path(folder)))
    print(tabulate([found], headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
