"""4,096 prompts x 22 leaves on 256 engines: `python -m benchmarks.rollout.fleet`.

Three measurements, in ``benchmarks/results/rollout_fleet.json``:

- the fleet, simulated as 64 rollout workers of 64 prompts with 4 engines each. That is the same as one fleet: all trees
  start at once, each stays with the engine that its first request went to, and verl's router distributes them evenly;
- one rollout worker with engines that answer at once: processor time and memory against prompts;
- the actors of which there is one for all nodes, with as many entries: verl's router, and TransferQueue's controller.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

from benchmarks.rollout.central import measure_central
from benchmarks.rollout.engine import InstantClient
from benchmarks.rollout.overhead import PAPER, grow_and_write
from benchmarks.rollout.scale import LATENCIES, SPEED, WORKLOAD, simulate
from benchmarks.rollout.schedules import Batch, grow
from benchmarks.rollout.traffic import bytes_per_leaf

RESULT = Path(__file__).parents[1] / "results" / "rollout_fleet.json"
WORKERS, PROMPTS, ENGINES = 64, 64, 4
"""Rollout workers, and what each has."""
TOOLS = "heavy-tailed, 0.3 s"
WORKER_PROMPTS = (16, 64, 192)
LEAVES = PAPER.expansion.leaves


def batch(prompts: int, seed: int, tools: str = TOOLS) -> Batch:
    """Samples of one worker."""
    return Batch(prompts, PAPER, WORKLOAD, LATENCIES[tools], seed=seed)


def worker_of_fleet(task: tuple[str, int]) -> dict[str, float]:
    """Simulate one worker's share of the fleet's rollout; seconds are those of the virtual clock."""
    schedule, number = task
    return asyncio.run(simulate(schedule, batch(PROMPTS, number), ENGINES))


def fleet(schedule: str, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """The whole fleet: it ends when its last worker does."""
    shares = list(pool.map(worker_of_fleet, [(schedule, number) for number in range(WORKERS)]))
    seconds = max(share["seconds"] for share in shares)
    leaves = WORKERS * PROMPTS * LEAVES
    row = {
        "schedule": schedule,
        "seconds": seconds,
        "first worker, s": min(share["seconds"] for share in shares),
        "leaves/s": leaves / seconds,
        "sampled tokens/leaf": statistics.fmean(share["tokens_per_leaf"] for share in shares),
        "engines busy": statistics.fmean(share["busy"] * share["seconds"] for share in shares) / seconds,
        "turns/s": sum(share["turns"] for share in shares) / seconds,
    }
    return row


def worker_alone(prompts: int) -> dict[str, Any]:
    """Measure one rollout worker whose engines and tools answer at once, rows included."""
    process, client = psutil.Process(), InstantClient()
    before = process.memory_info().rss
    trees = asyncio.run(grow(client, batch(prompts, 0, "no latency")))
    held = process.memory_info().rss - before
    del trees
    started = time.process_time()
    asyncio.run(grow_and_write(InstantClient(), batch(prompts, 0, "no latency")))
    seconds = time.process_time() - started
    return {
        "prompts": prompts,
        "leaves": prompts * LEAVES,
        "sampled turns": client.turns,
        "processor s": seconds,
        "ms/turn": 1000 * seconds / client.turns,
        "MB held": held / 1e6,
        "MB/prompt": held / 1e6 / prompts,
    }


def parts(processes: int) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """Key in the result file -> what measures its rows."""
    spawn = multiprocessing.get_context("spawn")

    def workers() -> list[dict[str, Any]]:
        rows = []
        for prompts in WORKER_PROMPTS:  # each in a process of its own, whose memory nobody has used before
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                rows.append(pool.submit(worker_alone, prompts).result())
        return rows

    def fleets() -> list[dict[str, Any]]:
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            return [fleet(schedule, pool) for schedule in ("chains", "rounds", "continuous")]

    return {
        "worker": workers,
        "bytes": lambda: bytes_per_leaf(batch(16, 0, "no latency")),
        "central": lambda: measure_central(prompts=WORKERS * PROMPTS, leaves=LEAVES, engines=WORKERS * ENGINES),
        "fleet": fleets,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout.fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="simulated at a time")
    parser.add_argument("--parts", nargs="+", help="measure these only, and keep the others of the result file")
    options = parser.parse_args()
    settings = {
        "workers": WORKERS,
        "prompts a worker": PROMPTS,
        "engines a worker": ENGINES,
        "leaves": LEAVES,
        "tools": TOOLS,
        "speed": dataclasses.asdict(SPEED),
        "workload": dataclasses.asdict(WORKLOAD),
    }
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for name, measure in parts(options.processes).items():
        if not options.parts or name in options.parts:
            result = {**result, "settings": settings, name: measure()}
            print(f"\n{name}\n{tabulate(result[name], headers='keys', tablefmt='github', floatfmt='.3f')}", flush=True)
            RESULT.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
