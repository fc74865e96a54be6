"""Performance profiles of the laboratory's runs, as a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benchmarks.lab.arms import ARMS
from benchmarks.lab.report import TASKS, counted

DRAWN = (
    "grpo",
    "gspo",
    "dapo",
    "tree_grpo",
    "entropy_branching",
    "paper",
    "rounds_8",
    "rounds_4",
    "tree_4",
    "tree_6_states",
)


def draw(results: Path, out: Path) -> None:
    """Performance profiles: the share of runs that reach a task's highest target, over tokens and steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = {task: own for task in TASKS if (own := counted(results, task))}
    figure, axes = plt.subplots(len(curves), 2, figsize=(12, 4 * len(curves)), layout="constrained", squeeze=False)
    for row, (task, runs) in zip(axes, curves.items(), strict=True):
        title, top = TASKS[task].title, TASKS[task].targets[-1]
        for axis, (cost, label) in zip(row, (("sampled_tokens", "sampled tokens"), ("step", "steps")), strict=True):
            for arm in DRAWN:
                own = [curve for curve in runs if curve.arm == arm]
                reached = sorted(each for curve in own if (each := curve.cost_to_reach(top, cost)) < math.inf)
                if own:
                    shares = np.arange(len(reached) + 1) / len(own)
                    axis.step([0, *reached], shares, where="post", label=f"{ARMS[arm].title} ({len(own)})")
            axis.set(xlabel=label, ylabel=f"share of runs at {top:.0%}{TASKS[task].of}", title=title, ylim=(0, 1))
        row[0].legend(fontsize=8)
    figure.savefig(out, dpi=110)
    plt.close(figure)
