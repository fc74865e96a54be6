"""The README's picture, a tree of a laboratory run: `python -m benchmarks.lab.picture` (minutes with `--grow`).

`--grow` trains the preset's arm for some steps, grows small trees of questions that it has not seen, and keeps the one
whose turns differ most in value in `benchmarks/results/tree.json`. Without it the kept tree is drawn again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.rollout import grow_tree
from benchmarks.lab.run import Plan, Run
from benchmarks.lab.tasks import TASKS
from verl_atpo.method.scheme import find_scheme
from verl_atpo.render.export import most_informative, write
from verl_atpo.report.describe import TreeDescriber
from verl_atpo.report.record import Record

ROOT = Path(__file__).parents[2]
KEPT, PICTURE = ROOT / "benchmarks" / "results" / "tree.json", ROOT / "examples" / "tree.png"
ARM, WORLD, STEPS, SOURCE = "tree", 1, 8, "2hop"
SHAPE = ("initial_chains=3", "branches_per_round=3", "rounds=1")
"""Six leaves, so that the picture fits a page."""
DEEPEST, ANSWERED, INNER = 3, (2, 4), 2
"""Most turns, fewest and most successful leaves, and fewest expansions after the first turn of a tree that is drawn."""


def trees() -> Iterator[Record]:
    """Train, then grow and describe a tree of each of many questions."""
    task = TASKS["hopqa"](WORLD)
    run = Run(Plan("hopqa", ARM, WORLD, 0), task)
    while run.step < STEPS:
        run.train()
    config = settings((*ARMS[ARM].overrides, *(f"algorithm.atpo.expansion.{each}" for each in SHAPE))).atpo
    engine, asked = run.engine(), [episode for episode in task.held_out if episode.source == SOURCE]
    growers = [
        grow_tree(engine, episode, task, config, random.Random(number), undecided=run.undecided)
        for number, episode in enumerate(asked)
    ]
    scheme, describer = find_scheme(config), TreeDescriber(task.tokenizer, config)
    for number, grown in enumerate(asyncio.run(engine.serve(growers))):
        prompt = {"uid": f"hopqa-{number}", "global_steps": STEPS, "data_source": asked[number].source,
                  "reward_model": {"ground_truth": asked[number].answer}}  # fmt: skip
        yield describer.record(grown, scheme.credit(grown.tree, grown.paths, grown.answers), prompt, seconds=0.0)


def fits(tree: Record) -> bool:
    """Return whether a tree fits a page and has leaves of both outcomes."""
    nodes = {node["index"]: node for node in tree["nodes"]}
    right = sum((node["reward"] or 0.0) > 0.5 for node in nodes.values())
    inner = sum(nodes[index]["turn"] > 1 for index in tree["selected"] if index in nodes)
    deepest = max(node["turn"] for node in nodes.values())
    return deepest <= DEEPEST and ANSWERED[0] <= right <= ANSWERED[1] and inner >= INNER


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.picture", description=__doc__.splitlines()[0])
    parser.add_argument("--grow", action="store_true", help="a new tree in place of the kept one")
    if parser.parse_args().grow:
        torch.set_num_threads(1)
        tree = most_informative(filter(fits, trees()))
        KEPT.write_text(json.dumps(tree, ensure_ascii=False) + "\n", encoding="utf-8")
    write(json.loads(KEPT.read_text(encoding="utf-8")), PICTURE)


if __name__ == "__main__":
    main()
