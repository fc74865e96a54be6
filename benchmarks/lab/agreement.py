"""Agreement of the laboratory with verl: arms that ran in both, world by world."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.lab.curves import Curve, read_curves
from benchmarks.lab.hopqa import HELD_OUT_PER_HOP
from benchmarks.learning.arms import ARMS
from benchmarks.learning.curves import Run, read_runs
from examples.hopqa.prepare import VAL_PER_HOP

CHECKED = {"grpo": ("grpo", "clock_grpo"), "tree_grpo": ("tree_grpo",), "atpo_clip0.04": ("atpo_clip0.04",)}
"""Arms, and what they were in verl: GRPO was run again for its wall clock, and learns the same way there."""
STEPS = (10, 20)


def table(lab: Path, in_verl: Path) -> str:
    """Table of accuracies, a row per arm and step: means over worlds, and their difference in its standard errors.

    A world's noise is the spread of the laboratory's seeds there; verl's runs are taken to have the same, and that of
    their fewer validation questions.
    """
    curves, runs = read_curves(lab), read_runs(in_verl)
    rows = [row for arm in CHECKED for step in STEPS if (row := _row(arm, step, curves, runs))]
    return markdown.table(rows) if rows else "No run is done yet."


def _row(arm: str, step: int, curves: Sequence[Curve], runs: Sequence[Run]) -> dict[str, Any] | None:
    ours, theirs, variances, counted = [], [], [], 0
    same = [run for run in runs if run.arm in CHECKED[arm]]
    for world in sorted({run.seed for run in same}):
        in_lab = [each for each in curves if (each.arm, each.task, each.world) == (f"verl_{arm}", "hopqa", world)]
        values = [each.accuracy[each.cost["step"].index(step)] for each in in_lab]
        in_verl = [run for run in same if run.seed == world]
        if len(values) > 1:
            ours.append(statistics.fmean(values))
            theirs.append(statistics.fmean(run.accuracy[run.steps.index(step)] for run in in_verl))
            fewer = statistics.fmean(_of_fewer_questions(run, step) for run in in_verl) / len(in_verl)
            variances.append(statistics.variance(values) * (1 / len(in_verl) + 1 / len(values)) + fewer)
            counted += len(in_verl)
    if not ours:
        return None
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    error = math.sqrt(sum(variances)) / len(ours)
    return {
        "arm": ARMS[arm].title,
        "step": step,
        "runs in verl": counted,
        "in verl": f"{statistics.fmean(theirs):.1%}",
        "laboratory": f"{statistics.fmean(ours):.1%}",
        "difference, points": f"{100 * difference:+.1f} ± {100 * error:.1f}",
        "in standard errors": f"{difference / error:+.1f}",
    }


def _of_fewer_questions(run: Run, step: int) -> float:
    """Compute the extra variance of an accuracy on verl's validation questions over that on the laboratory's."""
    by_hops = run.by_source[run.steps.index(step)].values()
    fewer = 1 / VAL_PER_HOP - 1 / HELD_OUT_PER_HOP
    return sum(share * (1 - share) for share in by_hops) * fewer / len(by_hops) ** 2
