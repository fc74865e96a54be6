"""Credit of turns held against an exact gradient: `python -m benchmarks.bias --seed 0`, about three minutes.

Three kinds of task (outcomes decided early, evenly, late), and contexts that repeat by 0, 50 and 100 %. Writes
`benchmarks/results/credit_bias.json`, from which `python -m benchmarks.report` fills `docs/credit.md` and
`docs/results/gradient.md`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.bias.steps import CREDITS, SHAPES, Direction, gradient, sample
from benchmarks.bias.table import MEASURED, RESULT, TABLES, arm_table
from benchmarks.bias.tasks import KINDS, table
from verl_atpo.method.undecided import Undecided

REPEATS = (0.0, 0.5, 1.0)
WARM_UP = 40
"""Trees that only the running estimate of what is undecided sees."""


def measure(kind: str, repeats: float, shape: str, trees: int, seed: int) -> Iterator[dict[str, Any]]:
    """Measure trees of one shape in tasks of one kind, by credit and aggregation.

    Args:
        kind: of task.
        repeats: probability that a turn has the same tokens as others with its action.
        shape: of the trees.
        trees: drawn, shared by :data:`TABLES` random tasks.
        seed: of everything random.
    """
    arms = [(credit, how) for at, credit, how in MEASURED if at == shape]
    found: dict[tuple[str, str], list[dict[str, float]]] = {arm: [] for arm in arms}
    over: dict[tuple[str, str], list[np.ndarray]] = {arm: [] for arm in arms}
    for number in range(TABLES):
        task = table(kind, TABLES * seed + number)
        rng = random.Random(f"{kind} {repeats} {shape} {seed} {number}")
        undecided = Undecided()
        directions = {arm: Direction() for arm in arms}
        for tree in range(WARM_UP + trees // TABLES):
            grown = sample(task, SHAPES[shape], repeats, undecided.shares, rng)
            undecided.add(grown.tree)
            if tree < WARM_UP:
                continue
            credits = {credit: CREDITS[credit](grown) for credit in dict(arms)}
            for credit, how in arms:
                directions[credit, how].add(gradient(grown, credits[credit], how), grown.tokens)
        for (credit, how), direction in directions.items():
            found[credit, how].append(direction.summary(task.gradient))
            of_trajectory = directions.get(("trajectory", how))
            if of_trajectory is not None:
                over[credit, how].append(direction.cosines(task.gradient) - of_trajectory.cosines(task.gradient))
    for (credit, how), of_tasks in found.items():
        row = {name: float(np.mean([each[name] for each in of_tasks])) for name in ("cosine", "mean", "tokens")}
        row["error"] = float(np.sqrt(np.mean([each["error"] ** 2 for each in of_tasks]) / TABLES))
        row["noise"] = float(np.exp(np.mean([np.log(each["noise"]) for each in of_tasks])))
        if over[credit, how]:
            differences = np.concatenate(over[credit, how])
            row["over_trajectory"] = float(differences.mean())
            row["over_error"] = float(differences.std(ddof=1) / len(differences) ** 0.5)
        yield {"kind": kind, "repeats": repeats, "shape": shape, "credit": credit, "aggregation": how, **row}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bias", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trees", type=int, default=400, help="an arm, kind of task and share of repeats")
    options = parser.parse_args()
    rows = [
        row
        for repeats in REPEATS
        for kind in KINDS
        for shape in SHAPES
        for row in measure(kind, repeats, shape, options.trees, options.seed)
    ]
    RESULT.write_text(json.dumps({"seed": options.seed, "trees": options.trees, "rows": rows}, indent=1) + "\n")
    print(arm_table())


if __name__ == "__main__":
    main()
