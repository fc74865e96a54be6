"""The schedules at the paper's scale, on simulated engines: `python -m benchmarks.rollout.scale`.

64 prompts x 22 leaves, turns of 150 tokens in the median. Our grower, replay and tool sessions are the real ones;
engines and tools only let time pass, on a virtual clock, so the same figures come out on any machine. Takes minutes,
writes ``benchmarks/results/rollout_scale.json``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from aiotools import VirtualClock
from tabulate import tabulate

from benchmarks.rollout.agent import Latency, Workload, heavy_tailed
from benchmarks.rollout.overhead import PAPER
from benchmarks.rollout.schedules import SCHEDULES, Batch, speeds
from benchmarks.rollout.simulated import EngineSpeed, SimulatedFleet

RESULT = Path(__file__).parents[1] / "results" / "rollout_scale.json"
PROMPTS, SEEDS = 64, (0, 1, 2)
ENGINES = (8, 2, 1)
SPEED = EngineSpeed()
WORKLOAD = Workload(prompt_tokens=500, median_turn_tokens=150, observation_tokens=300)
ONE_ROUND = dataclasses.replace(PAPER, expansion=dataclasses.replace(PAPER.expansion, branches_per_round=12, rounds=1))
"""As many leaves, with a wait less."""
LATENCIES = {
    "no latency": Latency(),
    "constant, 0.3 s": Latency(median_s=0.3),
    "heavy-tailed, 0.1 s": heavy_tailed(0.1),
    "heavy-tailed, 0.3 s": heavy_tailed(0.3),
}


async def simulate(schedule: str, batch: Batch, engines: int, speed: EngineSpeed = SPEED) -> dict[str, float]:
    """One schedule, once; seconds are the virtual clock's."""
    with VirtualClock().patch_loop():
        fleet = SimulatedFleet(engines, speed, batch.seed)
        leaves = await SCHEDULES[schedule](fleet, batch)
        seconds = asyncio.get_running_loop().time()
    busy = statistics.fmean(engine.busy_s for engine in fleet.engines) / seconds
    return {**speeds(leaves, fleet.sampled_tokens, seconds), "busy": busy}


def compare(engines: int, name: str) -> dict[str, Any]:
    """Trees against the two other schedules; medians over seeds, of the ratios too."""
    runs = []
    for seed in SEEDS:
        batch = Batch(PROMPTS, PAPER, WORKLOAD, LATENCIES[name], seed=seed)
        run = {schedule: asyncio.run(simulate(schedule, batch, engines)) for schedule in SCHEDULES}
        run["one round"] = asyncio.run(simulate("trees", dataclasses.replace(batch, config=ONE_ROUND), engines))
        runs.append(run)

    def ratio(figure: str, other: str, ours: str = "trees") -> float:
        return statistics.median(run[ours][figure] / run[other][figure] for run in runs)

    row = {
        "engines": engines,
        "tools": name,
        "trees, s": statistics.median(run["trees"]["seconds"] for run in runs),
        "engines busy": statistics.median(run["trees"]["busy"] for run in runs),
        "tokens per leaf / chains": ratio("tokens_per_leaf", "chains"),
        "tokens_per_s / chains": ratio("tokens_per_s", "chains"),
        "leaves_per_s / chains": ratio("leaves_per_s", "chains"),
        "leaves_per_s / lock-step trees": ratio("leaves_per_s", "lock-step trees"),
        "leaves_per_s, one round / chains": ratio("leaves_per_s", "chains", "one round"),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Command line."""
    rows = [compare(engines, name) for engines in ENGINES for name in LATENCIES]
    settings = {
        "prompts": PROMPTS,
        "leaves": PAPER.expansion.leaves,
        "seeds": SEEDS,
        "speed": dataclasses.asdict(SPEED),
        "workload": dataclasses.asdict(WORKLOAD),
    }
    RESULT.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
