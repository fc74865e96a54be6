"""The laboratory: `python -m benchmarks.lab --arms grpo tree --worlds 0 1 --seeds 0 1 2 --task hopqa`.

Runs what is not in the table of results yet, one after the other, in one thread at the lowest priority. It may be
stopped at any time (Ctrl-C, TERM, KILL) and started again: a run continues from its last validation. Several commands
with other worlds or seeds may run side by side. `--status` says what is done.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks import runs
from benchmarks.lab.arms import ARMS, BASELINES, TREES
from benchmarks.lab.run import Plan, complete
from benchmarks.lab.tasks import TASKS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "lab.jsonl"


def plans(options: argparse.Namespace) -> list[Plan]:
    """List all runs; runs of one world and seed follow each other, so that a stopped comparison is still paired."""
    return [
        Plan(options.task, arm, world, seed, options.steps, options.test_every)
        for seed in options.seeds
        for world in options.worlds
        for arm in options.arms
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=[*BASELINES, *TREES], metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of sampling and order of prompts")
    parser.add_argument("--worlds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="and their warm starts")
    parser.add_argument("--task", choices=TASKS, default="hopqa")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="of training, 8 prompts each")
    parser.add_argument("--test-every", type=int, default=Plan.test_every, help="steps between validations")
    parser.add_argument("--out", type=Path, default=RESULTS, help="table of finished runs")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "lab", help="folder of checkpoints")
    parser.add_argument("--status", action="store_true", help="say what is done, run nothing")
    options = parser.parse_args()
    every = plans(options)
    done = {runs.key(run) for run in runs.read(options.out)}
    left = [plan for plan in every if (plan.task, plan.arm, plan.world, plan.seed) not in done]
    print(f"{len(every) - len(left)} of {len(every)} runs are done", flush=True)
    if options.status:
        return
    os.nice(19)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for number, plan in enumerate(left, start=1):
        complete(plan, TASKS[plan.task](plan.world), options.out, options.work, lambda line: print(line, flush=True))
        print(f"{number} of {len(left)} in {(time.monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
