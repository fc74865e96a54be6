"""The laboratory's section of `docs/results.md`, from its result files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks.lab.arms import ARMS
from benchmarks.lab.curves import (
    Curve,
    Interval,
    interquartile_mean,
    interval,
    log_ratio,
    p_values,
    paired,
    read_curves,
)

BASELINE = "grpo"
TARGETS = (0.5, 0.7, 0.8)
RATIOS = {
    "sampled tokens": ("sampled_tokens", TARGETS),
    "trained tokens, distinct": ("trained_tokens_distinct", (0.8,)),
    "trained tokens, in rows": ("trained_tokens_in_rows", (0.8,)),
    "steps": ("step", (0.8,)),
}
"""Heading -> cost, and the accuracies it is asked for."""
TASKS = {"hopqa": "HopQA, 2 to 6 hops", "text_world": "Text world"}


def tables(folder: Path) -> str:
    """All tables, in Markdown, task by task."""
    curves = read_curves(folder)
    parts = []
    for task, title in TASKS.items():
        own = [curve for curve in curves if curve.task == task]
        if not own:
            parts.append(f"**{title}**: no run is done yet.")
            continue
        parts += [
            f"**{title}**. Cost to reach an accuracy, over {ARMS[BASELINE].title}'s in the same world and seed:",
            ratios(own),
            "Interquartile means over runs, and how many of the runs came so far:",
            levels(own),
        ]
    return "\n\n".join(parts)


def ratios(curves: Sequence[Curve]) -> str:
    """One row an arm: cost ratios with 95 % intervals, and Holm's p of sampled tokens to the highest accuracy."""
    arms = [arm for arm in _arms(curves) if arm != BASELINE and _pairs(curves, arm, "step", 0.8)]
    asked = [(heading, cost, target) for heading, (cost, targets) in RATIOS.items() for target in targets]
    tested = {arm: _pairs(curves, arm, "sampled_tokens", TARGETS[-1]) for arm in arms}
    corrected = p_values(tested)
    rows = []
    for arm in arms:
        row: dict[str, Any] = {"arm": ARMS[arm].title, "pairs": sum(map(len, tested[arm].values()))}
        for heading, cost, target in asked:
            found = interval(_pairs(curves, arm, cost, target))
            row[f"{heading} to {target:.0%}"] = _ratio(found)
        row["p (Holm), sampled to 80%"] = f"{corrected[arm]:.2g}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


@dataclasses.dataclass(frozen=True)
class Cost:
    """A cost ratio, its 95 % interval, and how many pairs of runs it is of."""

    ratio: str
    low: str
    high: str
    pairs: int


def cost_over_grpo(folder: Path, arm: str, target: float, task: str = "hopqa") -> Cost:
    """Sampled tokens until an accuracy, over GRPO's in the same world and seed."""
    pairs = _pairs([curve for curve in read_curves(folder) if curve.task == task], arm, "sampled_tokens", target)
    found = interval(pairs)
    ratio, low, high = (f"{math.exp(each):.2f}" for each in (found.estimate, found.low, found.high))
    return Cost(ratio, low, high, sum(map(len, pairs.values())))


def levels(curves: Sequence[Curve]) -> str:
    """One row an arm: accuracies on the way and at the end, what a run samples and trains, how many came how far."""
    rows = []
    for arm in _arms(curves):
        own = [curve for curve in curves if curve.arm == arm]
        row: dict[str, Any] = {"arm": ARMS[arm].title, "runs": len(own)}
        for step in (10, 20, 40):
            at = [_at(curve, step) for curve in own if curve.cost["step"][-1] >= step]
            row[f"accuracy at step {step}"] = f"{interquartile_mean(at):.1%}" if at else ""
        for name, cost in (("sampled", "sampled_tokens"), ("trained, distinct", "trained_tokens_distinct")):
            row[f"k tokens {name}"] = f"{interquartile_mean([curve.cost[cost][-1] for curve in own]) / 1e3:.0f}"
        for target in TARGETS:
            came = sum(curve.cost_to_reach(target, "step") < math.inf for curve in own)
            row[f"came to {target:.0%}"] = f"{came}/{len(own)}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


DRAWN = ("grpo", "gspo", "dapo", "tree_grpo", "entropy_branching", "paper", "tree", "tree_4", "adaptive", "unbiased")


def draw(folder: Path, out: Path) -> None:
    """Performance profiles: the share of runs that have come to 80 %, over sampled tokens and over steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = read_curves(folder)
    tasks = [task for task in TASKS if any(curve.task == task for curve in curves)]
    figure, axes = plt.subplots(len(tasks), 2, figsize=(12, 4 * len(tasks)), layout="constrained", squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        for axis, (cost, label) in zip(row, (("sampled_tokens", "sampled tokens"), ("step", "steps")), strict=True):
            for arm in DRAWN:
                own = [curve for curve in curves if curve.task == task and curve.arm == arm]
                reached = sorted(each for curve in own if (each := curve.cost_to_reach(0.8, cost)) < math.inf)
                if own:
                    shares = np.arange(len(reached) + 1) / len(own)
                    axis.step([0, *reached], shares, where="post", label=f"{ARMS[arm].title} ({len(own)})")
            axis.set(xlabel=label, ylabel="share of runs at 80 %", title=TASKS[task], ylim=(0, 1))
        row[0].legend(fontsize=8)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _pairs(curves: Sequence[Curve], arm: str, cost: str, target: float) -> dict[int, list[float]]:
    return paired(curves, arm, BASELINE, log_ratio(target, cost))


def _arms(curves: Sequence[Curve]) -> list[str]:
    there = {curve.arm for curve in curves}
    return [arm for arm in ARMS if arm in there and not arm.startswith("verl_")]


def _at(curve: Curve, step: int) -> float:
    return float(np.interp(step, curve.cost["step"], curve.accuracy))


def _ratio(found: Interval) -> str:
    return f"{math.exp(found.estimate):.2f} [{math.exp(found.low):.2f}, {math.exp(found.high):.2f}]"
