"""Simulated time of each arm's rollout step at the paper's lengths: `python -m benchmarks.lab.clock`.

The laboratory's own clock says nothing about rollouts: one thread, no tools that wait. So each arm's trees, of the
shape that it has in the laboratory, are grown at the paper's lengths on the simulated engines of
`benchmarks.rollout.scale`. Writes `benchmarks/results/lab_clock.json`, and continues from what is there; training takes
no time here.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.report import BASELINE
from benchmarks.rollout.scale import LATENCIES, SPEED, WORKLOAD, simulate
from benchmarks.rollout.schedules import Batch
from verl_atpo.config import AtpoConfig, Schedule

RESULT = Path(__file__).parents[1] / "results" / "lab_clock.json"
TIMED = (BASELINE, "rounds_8", "rounds_4", "continuous_8", "tree_4", "tree_6_states")


def schedule_of(atpo: AtpoConfig) -> str:
    """The schedule of `benchmarks.rollout` that samples as an arm does."""
    expansion = atpo.expansion
    if expansion.rounds == 0:
        return "chains"
    return "continuous" if expansion.schedule is Schedule.CONTINUOUS else "rounds"


def measure(arm: str, engines: int, tools: str, prompts: int, seed: int) -> dict[str, Any]:
    """Simulate one step's rollout of an arm; seconds are those of the simulation."""
    atpo = settings(ARMS[arm].overrides).atpo
    batch = Batch(prompts, atpo, WORKLOAD, LATENCIES[tools], seed=seed)
    return {"arm": arm, "seed": seed, **asyncio.run(simulate(schedule_of(atpo), batch, engines))}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per arm: medians over seeds, of ratios within a seed."""
    found = {(run["arm"], run["seed"]): run for run in runs}
    rows = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm]  # the baseline comes first in every seed
        over = [run["seconds"] / found[BASELINE, run["seed"]]["seconds"] for run in own]
        seconds = statistics.median(run["seconds"] for run in own)
        rows.append({"arm": arm, "seconds": seconds, "over grpo": statistics.median(over)})
    return rows


def kept(file: Path, conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of a file that were made with the same settings."""
    result = json.loads(file.read_text()) if file.exists() else {}
    return list(result["runs"]) if result.get("settings") == conditions else []


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.clock", description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--tools", choices=list(LATENCIES), default="heavy-tailed, 0.3 s")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    conditions = {
        **{name: getattr(options, name) for name in ("engines", "tools", "prompts")},
        "speed": dataclasses.asdict(SPEED),
        "workload": dataclasses.asdict(WORKLOAD),
    }
    runs = kept(options.out, conditions)
    for seed, arm in itertools.product(options.seeds, TIMED):
        if any((run["arm"], run["seed"]) == (arm, seed) for run in runs):
            continue
        runs.append(measure(arm, options.engines, options.tools, options.prompts, seed))
        print(f"{arm}, seed {seed}: {runs[-1]['seconds']:.1f} s", flush=True)
        options.out.write_text(json.dumps({"settings": conditions, "rows": summary(runs), "runs": runs}, indent=1))
    print(tabulate(summary(runs), headers="keys", tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
