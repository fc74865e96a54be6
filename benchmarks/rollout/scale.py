"""The schedules at the paper's scale, on simulated engines: `python -m benchmarks.rollout.scale`.

    python -m benchmarks.rollout.scale --engines 8 --tools "no latency" --seed 0 --out FILE.json

64 prompts x 22 leaves, turns of 150 tokens in the median. Our grower, replay and tool sessions are the real ones;
engines and tools only let time pass, on a virtual clock, so the same figures come out on any machine. All of it takes
an hour of one core; writes ``benchmarks/results/rollout_scale.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from aiotools import VirtualClock
from tabulate import tabulate

from benchmarks.rollout.agent import Latency, Workload, heavy_tailed
from benchmarks.rollout.overhead import PAPER
from benchmarks.rollout.schedules import SCHEDULES, Batch, speeds
from benchmarks.rollout.simulated import EngineSpeed, SimulatedFleet

RESULT = Path(__file__).parents[1] / "results" / "rollout_scale.json"
SPEED = EngineSpeed()
WORKLOAD = Workload(prompt_tokens=500, median_turn_tokens=150, observation_tokens=300)
LATENCIES = {
    "no latency": Latency(),
    "constant, 0.3 s": Latency(median_s=0.3),
    "heavy-tailed, 0.1 s": heavy_tailed(0.1),
    "heavy-tailed, 0.3 s": heavy_tailed(0.3),
}
RATIOS = [
    ("leaves_per_s", "continuous", "chains"),
    ("leaves_per_s", "rounds", "chains"),
    ("leaves_per_s", "continuous", "lock-step"),
    ("leaves_per_s", "rounds", "lock-step"),
    ("tokens_per_leaf", "continuous", "chains"),
    ("tokens_per_leaf", "rounds", "chains"),
]


async def simulate(schedule: str, batch: Batch, engines: int, speed: EngineSpeed = SPEED) -> dict[str, float]:
    """One schedule, once; seconds are the virtual clock's."""
    with VirtualClock().patch_loop():
        fleet = SimulatedFleet(engines, speed, batch.seed)
        leaves = await SCHEDULES[schedule](fleet, batch)
        seconds = asyncio.get_running_loop().time()
    busy = statistics.fmean(engine.busy_s for engine in fleet.engines) / seconds
    return {**speeds(leaves, fleet.sampled_tokens, seconds), "busy": busy, "turns": fleet.turns}


def measure(schedule: str, engines: int, tools: str, prompts: int, seed: int) -> dict[str, Any]:
    """One schedule, once, from names."""
    batch = Batch(prompts, PAPER, WORKLOAD, LATENCIES[tools], seed=seed)
    figures = asyncio.run(simulate(schedule, batch, engines))
    return {"engines": engines, "tools": tools, "seed": seed, "schedule": schedule, **figures}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per number of engines and kind of tools: medians over seeds, of the ratios within a seed."""
    seeds = list(dict.fromkeys(run["seed"] for run in runs))
    settings = dict.fromkeys((run["engines"], run["tools"]) for run in runs)
    by_setting = {(run["engines"], run["tools"], run["seed"], run["schedule"]): run for run in runs}
    return [
        _row(engines, tools, [{each: by_setting[engines, tools, seed, each] for each in SCHEDULES} for seed in seeds])
        for engines, tools in settings
    ]


def _row(engines: int, tools: str, by_seed: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"engines": engines, "tools": tools}
    for schedule in SCHEDULES:
        row[f"{schedule}, s"] = statistics.median(runs[schedule]["seconds"] for runs in by_seed)
    for figure, ours, other in RATIOS:
        ratios = [runs[ours][figure] / runs[other][figure] for runs in by_seed]
        row[f"{figure}, {ours} / {other}"] = statistics.median(ratios)
    row["engines busy, continuous"] = statistics.median(runs["continuous"]["busy"] for runs in by_seed)
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=int, nargs="+", default=[8, 2, 1])
    parser.add_argument("--tools", nargs="+", choices=list(LATENCIES), default=list(LATENCIES), metavar="NAME")
    parser.add_argument("--seed", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    settings = list(itertools.product(SCHEDULES, options.engines, options.tools, [options.prompts], options.seed))
    with ProcessPoolExecutor(options.processes) as pool:
        runs = list(pool.map(measure, *zip(*settings, strict=True)))
    rows = summary(runs)
    settings_told = {
        "prompts": options.prompts,
        "leaves": PAPER.expansion.leaves,
        "seeds": options.seed,
        "expansion": PAPER.to_mapping()["expansion"],
        "speed": dataclasses.asdict(SPEED),
        "workload": dataclasses.asdict(WORKLOAD),
    }
    options.out.write_text(json.dumps({"settings": settings_told, "rows": rows, "runs": runs}, indent=1))
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
