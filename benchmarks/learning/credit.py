"""Difference of turn-wise and trajectory credit: `python -m benchmarks.learning.credit outputs/learning`.

A turn that several leaves share is trained once per leaf. Trajectory credit trains it with the advantage of each of
these leaves, which at an importance ratio of 1 is their mean; turn-wise credit with its own advantage every time. So
the two differ by how far a shared turn's advantage is from the mean over its leaves, and in nothing else: a turn that
only one leaf passes through has that leaf's advantage in both.

Reads the trees of all finished runs in the folder whose turns' advantage is their value, and puts what it finds into
`benchmarks/results/credit.json`, beside what is there of runs that were dumped elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runs
from benchmarks.learning.results import RESULTS, write
from benchmarks.learning.task import ROOT
from verl_atpo.report.dump_reader import read_trees

RESULT = ROOT / "benchmarks" / "results" / "credit.json"


def shared_turns(tree: dict[str, Any]) -> tuple[list[tuple[float, float, int]], int]:
    """The shared turns of a dumped tree, and the tokens that all its rows train.

    Returns:
        Of every shared turn its advantage, the mean advantage of its leaves, and its tokens times its leaves; and the
        sum of the latter over all turns.
    """
    nodes = {node["index"]: node for node in tree["nodes"]}
    below: dict[int, list[float]] = defaultdict(list)
    for leaf in (node for node in tree["nodes"] if node["is_leaf"]):
        index = leaf["index"]
        while index in nodes:  # up to the prompt
            below[index].append(leaf["advantage"])
            index = nodes[index]["parent"]
    trained = {index: nodes[index]["tokens"] * len(leaves) for index, leaves in below.items()}
    shared = [
        (nodes[index]["advantage"], float(np.mean(leaves)), trained[index])
        for index, leaves in below.items()
        if len(leaves) > 1
    ]
    return shared, sum(trained.values())


def compare(trees: Iterable[dict[str, Any]]) -> dict[str, float] | None:
    """Measure a run's trees with unequal rewards, weighted with trained tokens.

    Returns:
        ``trees``: how many; ``shared``: share of trained tokens in shared turns; ``correlation`` of their advantages
        under the two kinds of credit; ``difference``: its root mean square over that of trajectory credit's. None if
        no turn is shared: chains.
    """
    telling = [tree for tree in trees if len({node["reward"] for node in tree["nodes"] if node["is_leaf"]}) > 1]
    found = [shared_turns(tree) for tree in telling]
    turns = [turn for shared, _ in found for turn in shared]
    if not turns:
        return None
    ours, theirs, weights = np.array(turns).T
    covariance = np.cov(ours, theirs, aweights=weights)
    return {
        "trees": len(telling),
        "shared": float(weights.sum() / sum(trained for _, trained in found)),
        "correlation": float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])),
        "difference": float(
            np.sqrt(np.average((ours - theirs) ** 2, weights=weights) / np.average(theirs**2, weights=weights))
        ),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.credit", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of runs with `trees` in them")
    options = parser.parse_args()
    rows = {row["run"]: row for row in json.loads(RESULT.read_text())["rows"]} if RESULT.exists() else {}
    for run in {file.parents[1] for file in options.runs.glob("*/trees/trees-*.jsonl")}:
        if trains_on_values(RESULTS, run.name) and (figures := compare(read_trees(run / "trees"))):
            rows[run.name] = {"run": run.name, **figures}
    write({"rows": [rows[name] for name in sorted(rows)]}, RESULT)
    print(json.dumps(rows, indent=2))


def trains_on_values(results: Path, name: str) -> bool:
    """Return whether a run, named by arm and seed, is finished and has a turn's value for its advantage."""
    arm, _, seed = name.rpartition("_")
    run = runs.find(results, arm=arm, seed=int(seed))
    return run is not None and not any("credit.advantage" in override for override in run["overrides"])


if __name__ == "__main__":
    main()
