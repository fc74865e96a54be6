"""The schedules at the paper's scale and with long agents, on simulated engines: `python -m benchmarks.rollout.scale`.

    python -m benchmarks.rollout.scale --engines 8 --tools "no latency" --seed 0 --out FILE.json
    python -m benchmarks.rollout.scale --agents paper long --schedules chains continuous staggered --out FILE.json

64 prompts x 22 leaves, turns of 150 tokens in the median; `--agents` names other ones. Our grower, replay and tool
sessions are the real ones; engines and tools only let time pass, on a virtual clock, so the same figures come out on
any machine. All of it takes an hour of one core; writes ``benchmarks/results/rollout_scale.json``. `staggered` knows
the chains of as many trees before.
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
from benchmarks.rollout.engine import InstantClient
from benchmarks.rollout.overhead import PAPER
from benchmarks.rollout.schedules import ALL_SCHEDULES, SCHEDULES, Batch, grow, speeds
from benchmarks.rollout.simulated import EngineSpeed, SimulatedFleet
from verl_atpo.config import AtpoConfig, ExpansionConfig, Schedule
from verl_atpo.method.lengths import Lengths, expected_turns

RESULT = Path(__file__).parents[1] / "results" / "rollout_scale.json"
SPEED = EngineSpeed()
WORKLOAD = Workload(prompt_tokens=500, median_turn_tokens=150, observation_tokens=300)
LONG = Workload(4000, 300, max_turns=20, end_share=0.05, observation_tokens=1000)
TREE = AtpoConfig(expansion=ExpansionConfig(6, 3, 2, strategy="noise"))


@dataclasses.dataclass(frozen=True)
class Agent:
    """An agent and the trees that are grown for it.

    Attributes:
        config: of its trees.
        workload: its trajectories.
    """

    config: AtpoConfig
    workload: Workload

    def batch(self, prompts: int, tools: str, seed: int) -> Batch:
        """Return the work of a step, with what an earlier step has shown of chains.

        What is undecided falls by the same share with every turn.
        """
        batch = Batch(prompts, self.config, self.workload, LATENCIES[tools], seed)
        before = dataclasses.replace(batch, latency=Latency(), seed=seed + 1000)
        lengths = Lengths()
        for tree in asyncio.run(grow(InstantClient(seed), before.scheduled(Schedule.ROUNDS))):
            lengths.add(tree.tree)
        turns = expected_turns(lengths.depths) or 1.0
        undecided = [(1.0 - 1.0 / turns) ** depth for depth in range(self.workload.max_turns)]
        return dataclasses.replace(batch, depths=lengths.depths, undecided=undecided)


AGENTS = {
    "paper": Agent(PAPER, WORKLOAD),
    "long": Agent(PAPER, LONG),
    "paper, `tree`": Agent(TREE, WORKLOAD),
    "long, `tree`": Agent(TREE, LONG),
}
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
    ("leaves_per_s", "staggered", "chains"),
    ("tokens_per_leaf", "staggered", "chains"),
]


async def simulate(schedule: str, batch: Batch, engines: int, speed: EngineSpeed = SPEED) -> dict[str, float]:
    """Simulate one schedule once; seconds are those of the virtual clock."""
    with VirtualClock().patch_loop():
        fleet = SimulatedFleet(engines, speed, batch.seed)
        leaves = await ALL_SCHEDULES[schedule](fleet, batch)
        seconds = asyncio.get_running_loop().time()
    busy = statistics.fmean(engine.busy_s for engine in fleet.engines) / seconds
    return {**speeds(leaves, fleet.sampled_tokens, seconds), "busy": busy, "turns": fleet.turns}


def measure(agent: str, schedule: str, engines: int, tools: str, prompts: int, seed: int) -> dict[str, Any]:
    """Simulate one schedule once, named by its settings."""
    figures = asyncio.run(simulate(schedule, AGENTS[agent].batch(prompts, tools, seed), engines))
    return {"agent": agent, "engines": engines, "tools": tools, "seed": seed, "schedule": schedule, **figures}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per agent, number of engines and kind of tools: medians over seeds, of the ratios within a seed."""
    by_setting: dict[tuple[str, int, str], dict[int, dict[str, dict[str, float]]]] = {}
    for run in runs:
        of_seed = by_setting.setdefault((run["agent"], run["engines"], run["tools"]), {})
        of_seed.setdefault(run["seed"], {})[run["schedule"]] = run
    return [
        {"agent": agent, "engines": engines, "tools": tools, **_figures(list(of_seed.values()))}
        for (agent, engines, tools), of_seed in by_setting.items()
    ]


def _figures(by_seed: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    found = {f"{name}, s": statistics.median(runs[name]["seconds"] for runs in by_seed) for name in by_seed[0]}
    for figure, ours, other in RATIOS:
        if {ours, other} <= by_seed[0].keys():
            ratios = [runs[ours][figure] / runs[other][figure] for runs in by_seed]
            found[f"{figure}, {ours} / {other}"] = statistics.median(ratios)
    for name in {"continuous", "staggered"} & by_seed[0].keys():
        found[f"engines busy, {name}"] = statistics.median(runs[name]["busy"] for runs in by_seed)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=["paper"], metavar="NAME")
    parser.add_argument("--schedules", nargs="+", choices=list(ALL_SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--engines", type=int, nargs="+", default=[8, 2, 1])
    parser.add_argument("--tools", nargs="+", choices=list(LATENCIES), default=list(LATENCIES), metavar="NAME")
    parser.add_argument("--seed", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    asked = options.agents, options.schedules, options.engines, options.tools, [options.prompts], options.seed
    settings = list(itertools.product(*asked))
    with ProcessPoolExecutor(options.processes) as pool:
        runs = list(pool.map(measure, *zip(*settings, strict=True)))
    rows = summary(runs)
    reported = {
        "prompts": options.prompts,
        "seeds": options.seed,
        "speed": dataclasses.asdict(SPEED),
        "agents": {
            name: {
                "expansion": AGENTS[name].config.to_mapping()["expansion"],
                "workload": dataclasses.asdict(AGENTS[name].workload),
            }
            for name in options.agents
        },
    }
    options.out.write_text(json.dumps({"settings": reported, "rows": rows, "runs": runs}, indent=1))
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
