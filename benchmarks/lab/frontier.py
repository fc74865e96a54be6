"""Plot of tokens against steps for trees and for groups of chains of any size.

Fewer trajectories a prompt save sampled tokens and take more steps, whatever samples them. So a tree that samples fewer
tokens than as many chains has to be compared with fewer chains too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lab.arms import ARMS
from benchmarks.lab.curves import Curve, Interval, interval, log_ratio, paired
from benchmarks.lab.report import BASELINE, SAMPLED, TASKS, counted

GROUPS = ("grpo_8", "grpo_12", "grpo")
"""GRPO with ever more trajectories a prompt."""
TREES = (
    "tree_6_states",
    "tree_6",
    "tree_8",
    "tree",
    "tree_states",
    "rounds_8_states",
    "tree_12",
    "continuous_8",
    "rounds_4",
    "rounds_8",
)


def point(curves: Sequence[Curve], arm: str, accuracy: float) -> tuple[Interval, Interval] | None:
    """Logarithms of an arm's sampled tokens and steps to an accuracy over GRPO's; None where no pair has been run."""
    found = [paired(curves, arm, BASELINE, log_ratio(accuracy, cost)) for cost in (SAMPLED, "step")]
    if not all(found):
        return None
    tokens, steps = map(interval, found)
    return tokens, steps


def target(curves: Sequence[Curve], targets: Sequence[float]) -> float:
    """Return the highest of some rising accuracies that all of GRPO's runs reach; the lowest, if they reach none."""
    runs = [curve for curve in curves if curve.arm == BASELINE]
    reached = [each for each in targets if all(run.cost_to_reach(each, "step") < math.inf for run in runs)]
    return [*targets[:1], *reached][-1]


def draw(results: Path, out: Path) -> None:
    """Plot steps over sampled tokens to the highest accuracy that GRPO always reaches, both over GRPO's, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    there = {task: curves for task in TASKS if (curves := counted(results, task))}
    figure, axes = plt.subplots(1, len(there), figsize=(6 * len(there), 4.5), layout="constrained", squeeze=False)
    for axis, (task, curves) in zip(axes[0], there.items(), strict=True):
        aim = target(curves, TASKS[task].targets)
        points = {arm: found for arm in GROUPS + TREES if (found := point(curves, arm, aim)) is not None}
        for arm, found in points.items():
            (x, left, right), (y, low, high) = (
                [math.exp(each) for each in (of.estimate, of.low, of.high)] for of in found
            )
            axis.errorbar(
                x, y, [[max(0, y - low)], [max(0, high - y)]], [[max(0, x - left)], [max(0, right - x)]],
                fmt="s" if arm in GROUPS else "o", color="black" if arm in GROUPS else None, elinewidth=0.7,
                label=f"{ARMS[arm].title} ({found[0].runs})",
            )  # fmt: skip
        line = [points[arm] for arm in GROUPS if arm in points]
        axis.plot(*([math.exp(of[at].estimate) for of in line] for at in (0, 1)), color="black", linewidth=0.7)
        axis.set(
            title=TASKS[task].title,
            xlabel=f"sampled tokens to {aim:.0%}{TASKS[task].of}, over GRPO's with 16 trajectories",
            ylabel=f"steps to {aim:.0%}{TASKS[task].of}, over the same",
        )
        axis.legend(fontsize=7)
    figure.savefig(out, dpi=110)
    plt.close(figure)
