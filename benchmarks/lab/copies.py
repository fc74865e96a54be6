"""Repetition of turns and contexts in HopQA's trees and chains: `python -m benchmarks.lab.copies --steps 0 25`.

Trains `gigpo` and, after each of the numbers of steps, grows chains and trees of the same prompts; trains nothing on
these. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import torch
from tabulate import tabulate

from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.rollout import grow_tree
from benchmarks.lab.run import Plan, Run
from benchmarks.lab.tasks import TASKS
from verl_atpo.config import Contexts
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import TurnTree


def repeats(trees: Sequence[TurnTree]) -> dict[str, str]:
    """Measure the share of turns that other trajectories repeat in an equal context, and of later turns with siblings.

    The first turns of a tree share the prompt, whatever counts as one context.
    """
    turns = copied = later = 0
    accompanied = Counter[Contexts]()
    for tree in trees:
        same = Counter(group_contexts(tree, Contexts.MERGED).copy_of)
        turns += len(tree.nodes) - 1
        copied += sum(number for number in same.values() if number > 1)
        inner = [node.index for node in tree.nodes if node.parent > 0]
        later += len(inner)
        for contexts in Contexts:
            context = group_contexts(tree, contexts).context
            size = Counter(context)
            accompanied[contexts] += sum(size[context[index]] > 1 for index in inner)
    shares = {f"later turns with siblings, {each.value}": f"{accompanied[each] / later:.1%}" for each in Contexts}
    return {"turns": str(turns), "copies": f"{copied / turns:.1%}", **shares}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.copies", description=__doc__.splitlines()[0])
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 25], help="rising")
    parser.add_argument("--prompts", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS["hopqa"](options.world)
    run = Run(Plan("hopqa", "gigpo", options.world, 0), task)
    rows = []
    for steps in options.steps:
        while run.step < steps:
            run.train()
        for arm in ("grpo", "rounds_8"):
            engine, config = run.engine(), settings(ARMS[arm].overrides).atpo
            asked = task.train[: options.prompts]
            growers = [
                grow_tree(engine, episode, task, config, random.Random(number)) for number, episode in enumerate(asked)
            ]
            trees = [grown.tree for grown in asyncio.run(engine.serve(growers))]
            rows.append({"after step": str(steps), "sampled as": ARMS[arm].title, **repeats(trees)})
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
