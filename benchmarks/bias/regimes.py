"""Metrics that show the regime of a run, by kind of task and repeats: `python -m benchmarks.bias.regimes`.

Writes `benchmarks/results/regimes.json`. Its table sets the metrics beside the noise that `benchmarks.bias` measured in
the same tasks, so that a run's own metrics say which line applies to it.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.bias.steps import SHAPES, sample
from benchmarks.bias.table import RESULT as NOISE
from benchmarks.bias.table import TABLES, USUAL, change
from benchmarks.bias.tasks import KINDS, table
from verl_atpo.method.undecided import Undecided
from verl_atpo.report.context_metrics import context_metrics, context_stats

RESULT = Path(__file__).parents[1] / "results" / "regimes.json"
SHAPE, CREDIT = "6 + 6 by noise", "shrunk"
"""The preset `tree`."""
REPEATS = (0.0, 0.5, 1.0)
WARM_UP = 40
SHOWN = (1, 3)
"""Numbers of turns after which the table says what is undecided."""


def measure(kind: str, repeats: float, trees: int, seed: int) -> dict[str, Any]:
    """Measure the metrics of a run's log, the mean over random tasks of one kind.

    Args:
        kind: of task.
        repeats: probability that a turn has the same tokens as others with its action.
        trees: counted of each task, after :data:`WARM_UP`.
        seed: of everything random.
    """
    found: list[dict[str, float]] = []
    for number in range(TABLES):
        task, rng, undecided = (
            table(kind, TABLES * seed + number),
            random.Random(f"{kind} {repeats} {seed}"),
            Undecided(),
        )
        grown = []
        for _ in range(WARM_UP + trees):
            tree = sample(task, SHAPES[SHAPE], repeats, undecided.shares, rng).tree
            undecided.add(tree)
            grown.append(context_stats(tree))
        found.append(context_metrics(grown[WARM_UP:]))
    names = [name for name in found[0] if all(name in each for each in found)]
    return {"kind": kind, "repeats": repeats} | {name: sum(each[name] for each in found) / TABLES for name in names}


def regimes() -> str:
    """Make one row for each cell: metrics, and noise relative to 12 chains with GRPO's credit."""
    noise = {
        (row["repeats"], row["kind"], f"{row['shape']}; {row['credit']}"): row["noise"]
        for row in json.loads(NOISE.read_text())["rows"]
        if row["aggregation"] == USUAL
    }
    rows = []
    for row in json.loads(RESULT.read_text())["rows"]:
        repeats, kind = row["repeats"], row["kind"]
        grpo = noise[repeats, kind, "12 chains; trajectory"]
        rows.append(
            {
                "`context_repeats`": f"{row['context_repeats']:.2f}",
                **{f"`undecided/{turns}`": f"{row[f'undecided/{turns}']:.2f}" for turns in SHOWN},
                "outcomes decided": kind,
                "noise, `+atpo=tree`": change(noise[repeats, kind, f"{SHAPE}; {CREDIT}"], grpo),
                "noise, 12 chains with its credit": change(noise[repeats, kind, f"12 chains; {CREDIT}"], grpo),
            }
        )
    return markdown.table(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bias.regimes", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trees", type=int, default=60, help="counted of each task")
    options = parser.parse_args()
    rows = [measure(kind, repeats, options.trees, options.seed) for repeats in REPEATS for kind in KINDS]
    RESULT.write_text(json.dumps({"seed": options.seed, "trees": options.trees, "rows": rows}, indent=1) + "\n")
    print(regimes())


if __name__ == "__main__":
    main()
