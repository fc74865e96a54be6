"""Correlation of a turn's and its context's uncertainty: `python -m benchmarks.lab.uncertainty --task hopqa --world 2`.

A tree samples turns again that the policy was unsure of, by the mean NLL of the tokens it happened to sample. Here they
are selected at random, and the first and the second sample of each context are compared: the NLL, and the mean entropy
of the distributions that the tokens were drawn from, which an engine knows and verl does not pass on. A score for
choosing contexts has to be similar both times.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import markdown
from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.engine import Engine
from benchmarks.lab.episodes import Task
from benchmarks.lab.gradient import RESULT as GRADIENT
from benchmarks.lab.gradient import Place, keep
from benchmarks.lab.report import TASKS as TITLES
from benchmarks.lab.rollout import grow_tree
from benchmarks.lab.tasks import TASKS
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.recording import Turn

RESULT = GRADIENT.with_name("lab_uncertainty.json")
ARM = "tree_4_random"


@dataclasses.dataclass(frozen=True)
class Twice:
    """A context that was sampled from twice: mean NLL and mean entropy of either turn, nats/token."""

    nll: float
    entropy: float
    nll_again: float
    entropy_again: float


def entropy(turn: Turn) -> float:
    """Mean over a turn's tokens, nats/token."""
    return float(np.mean([each for generation in turn.generations for each in generation.output.entropies]))


def sampled_twice(grown: GrownTree) -> list[Twice]:
    """List every selected turn of a tree with the one that an expansion sampled in its place."""
    found = []
    for rollout in grown.rollouts:
        if rollout.selection is not None and (second := rollout.resampled) is not None:
            first = grown.tree.turn(rollout.selection.node)
            found.append(Twice(first.mean_nll, entropy(first), second.mean_nll, entropy(second)))
    return found


def summary(found: Sequence[Twice]) -> dict[str, float]:
    """Correlations of what was sampled first with what came the second time."""
    columns = {field.name: [getattr(each, field.name) for each in found] for field in dataclasses.fields(Twice)}

    def correlation(one: str, other: str) -> float:
        return float(np.corrcoef(columns[one], columns[other])[0, 1])

    return {
        "contexts": len(found),
        "mean_nll": float(np.mean(columns["nll"])),
        "nll, nll again": correlation("nll", "nll_again"),
        "entropy, entropy again": correlation("entropy", "entropy_again"),
        "entropy, nll again": correlation("entropy", "nll_again"),
    }


def measure(task: Task, policy: dict[str, torch.Tensor], prompts: int, seed: int) -> dict[str, float]:
    """Grow a tree for each of the first prompts, and compare."""
    model = task.model()
    model.load_state_dict(policy)
    engine, atpo = Engine(model, seed, task.end), settings(ARMS[ARM].overrides).atpo
    growers = [
        grow_tree(engine, episode, task, atpo, random.Random(f"{seed} {number}"))
        for number, episode in enumerate(task.train[:prompts])
    ]
    trees = asyncio.run(engine.serve(growers))
    found = summary([each for grown in trees for each in sampled_twice(grown)])
    return found | {"turns selected in a tree": float(np.mean([len(set(grown.selected)) for grown in trees]))}


def table(file: Path) -> str:
    """Write a Markdown table, a row per task and world."""
    kept: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    rows = [
        {
            "task": TITLES[each["settings"]["task"]].title,
            "world": each["settings"]["world"],
            "contexts sampled twice": each["found"]["contexts"],
            "turns selected in a tree": f"{each['found']['turns selected in a tree']:.1f}",
            "NLL with NLL again": f"{each['found']['nll, nll again']:.2f}",
            "entropy with NLL again": f"{each['found']['entropy, nll again']:.2f}",
            "entropy with entropy again": f"{each['found']['entropy, entropy again']:.2f}",
        }
        for each in kept
    ]
    return markdown.table(rows) or "Nothing is measured yet."


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.uncertainty", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="hopqa")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--after", type=int, default=10, help="steps of GRPO that have made the policy")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    conditions = {name: getattr(options, name) for name in ("task", "world", "seed", "after", "prompts")}
    task = TASKS[options.task](options.world)
    policy = Place(options.task, options.world, options.seed, options.after, reference=0).policy(task)
    keep(options.out, conditions, measure(task, policy, options.prompts, options.seed))
    print(table(options.out))


if __name__ == "__main__":
    main()
