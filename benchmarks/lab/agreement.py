"""Does the laboratory learn as verl does: arms that ran in both, world by world."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.lab.curves import Curve, read_curves
from benchmarks.learning.arms import ARMS
from benchmarks.learning.curves import Run, read_runs

CHECKED = ("grpo", "tree_grpo", "atpo_clip0.04")
STEPS = (10, 20)


def table(lab: Path, in_verl: Path) -> str:
    """One row an arm and step: mean accuracy of both over worlds, and their difference in its standard errors.

    A world's noise is the spread of the laboratory's seeds there; verl's single run is taken to have the same.
    """
    curves, runs = read_curves(lab), read_runs(in_verl)
    rows = [row for arm in CHECKED for step in STEPS if (row := _row(arm, step, curves, runs))]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True) if rows else "No run is done yet."


def _row(arm: str, step: int, curves: Sequence[Curve], runs: Sequence[Run]) -> dict[str, Any] | None:
    ours, theirs, variances = [], [], []
    for run in runs:
        same = [c for c in curves if c.arm == f"verl_{arm}" and c.task == "hopqa" and c.world == run.seed]
        values = [each.accuracy[each.cost["step"].index(step)] for each in same]
        if run.arm == arm and len(values) > 1:
            ours.append(statistics.fmean(values))
            theirs.append(run.accuracy[run.steps.index(step)])
            variances.append(statistics.variance(values) * (1 + 1 / len(values)))
    if not ours:
        return None
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    error = math.sqrt(sum(variances)) / len(ours)
    return {
        "arm": ARMS[arm].title,
        "step": step,
        "worlds": len(ours),
        "in verl": f"{statistics.fmean(theirs):.1%}",
        "laboratory": f"{statistics.fmean(ours):.1%}",
        "difference, points": f"{100 * difference:+.1f} ± {100 * error:.1f}",
        "in standard errors": f"{difference / error:+.1f}",
    }
