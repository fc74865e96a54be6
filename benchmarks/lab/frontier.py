"""Plot of tokens against steps for trees and for groups of chains of any size.

Fewer trajectories a prompt save sampled tokens and take more steps, whatever samples them. So a tree that samples fewer
tokens than as many chains has to be compared with fewer chains too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab.curves import Curve, Interval, interval, log_ratio, paired
from benchmarks.lab.report import BASELINE, SAMPLED, TASKS, counted


@dataclasses.dataclass(frozen=True)
class Shown:
    """Look of an arm in the plot.

    Attributes:
        label: in the legend.
        color: of its point.
        marker: of matplotlib.
        beside: words beside the point.
    """

    label: str
    color: str
    marker: str = "o"
    beside: str = ""


BLACK, TEAL, ORANGE, GREY = "#0f172a", "#0d9488", "#d9480f", "#64748b"
GROUPS = {
    "grpo_8": Shown("GRPO, 8 trajectories", BLACK, "s", "8"),
    "grpo_12": Shown("GRPO, 12 trajectories", BLACK, "s", "12"),
    "grpo": Shown("GRPO, 16 trajectories", BLACK, "s", "16"),
}
"""GRPO with ever more trajectories a prompt: the frontier."""
OTHERS = {
    "tree": Shown("tree by noise (+atpo=tree)", TEAL),
    "tree_6_states": Shown("tree by entropy (earlier preset)", ORANGE),
    "tree_tm": Shown("tree by noise, token-mean", TEAL, "^"),
    "grpo_12_tm": Shown("GRPO, 12, token-mean", GREY, "D"),
    "grpo_tm": Shown("GRPO, 16, token-mean", GREY, "s"),
}
"""Trees of 12 trajectories, and arms at verl's default aggregation."""
SURE = 10
"""Paired runs from which a point is filled."""


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

    plt.rcParams["font.size"] = 11
    there = {task: curves for task in TASKS if (curves := counted(results, task))}
    figure, axes = plt.subplots(1, len(there), figsize=(5.6 * len(there), 5.6), layout="constrained", squeeze=False)
    for axis, (task, curves) in zip(axes[0], there.items(), strict=True):
        aim = target(curves, TASKS[task].targets)
        points = {arm: found for arm in (*GROUPS, *OTHERS) if (found := point(curves, arm, aim)) is not None}
        for arm, found in points.items():
            _show(axis, (GROUPS | OTHERS)[arm], found)
        line = [[math.exp(points[arm][at].estimate) for arm in GROUPS if arm in points] for at in (0, 1)]
        axis.plot(*line, color=BLACK, linewidth=1.2, zorder=1)
        axis.fill_between(line[0], line[1], 0, color=TEAL, alpha=0.08, linewidth=0, zorder=0)
        axis.margins(0.08)
        axis.set(
            title=f"{TASKS[task].short}, to {aim:.0%}{TASKS[task].of}",
            xlabel="sampled tokens, ratio to GRPO with 16",
            ylabel="steps, ratio to GRPO with 16",
            ylim=(min(0.9, 0.97 * min(line[1])), None),
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=10.5)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _show(axis: Any, shown: Shown, found: tuple[Interval, Interval]) -> None:
    """Draw an arm's point with its intervals; hollow where it has few runs."""
    (x, left, right), (y, low, high) = ([math.exp(each) for each in (of.estimate, of.low, of.high)] for of in found)
    axis.errorbar(
        x, y, [[max(0, y - low)], [max(0, high - y)]], [[max(0, x - left)], [max(0, right - x)]],
        fmt=shown.marker, color=shown.color, elinewidth=0.9, markersize=8,
        markerfacecolor=shown.color if found[0].runs >= SURE else "white",
        label=f"{shown.label}, {found[0].runs} paired runs",
    )  # fmt: skip
    axis.annotate(shown.beside, (x, y), (8, 6), textcoords="offset points", color=shown.color)
