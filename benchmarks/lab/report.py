"""The laboratory's section of `docs/results.md`, from its result files."""

from __future__ import annotations

import dataclasses
import json
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


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A column of cost ratios.

    Attributes:
        heading: of the column.
        cost: of an arm.
        over: cost of the baseline.
        target: the accuracy it is asked for.
        p: heading of its column of p values; none where it is empty.
    """

    heading: str
    cost: str
    over: str
    target: float
    p: str = ""


SAMPLED, DISTINCT, IN_ROWS = "sampled_tokens", "trained_tokens_distinct", "trained_tokens_in_rows"
RATIOS = (
    Ratio("sampled tokens to 50%", SAMPLED, SAMPLED, 0.5),
    Ratio("sampled tokens to 70%", SAMPLED, SAMPLED, 0.7, "p, sampled to 70%"),
    Ratio("sampled tokens to 80%", SAMPLED, SAMPLED, 0.8, "p, sampled to 80%"),
    Ratio("trained to 80%, distinct over GRPO's distinct", DISTINCT, DISTINCT, 0.8),
    Ratio("trained to 80%, rows over GRPO's rows", IN_ROWS, IN_ROWS, 0.8),
    Ratio("trained to 80%, distinct over GRPO's rows", DISTINCT, IN_ROWS, 0.8, "p, distinct over GRPO's rows"),
    Ratio("steps to 80%", "step", "step", 0.8),
)
"""Rows hold every token as often as verl trains it, the distinct tokens once each, as `+train=packed` does."""
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
    """One row an arm: cost ratios with 95 % intervals, and p values with Holm's correction over a column's arms.

    The baseline has a row too, for its distinct tokens over those of its rows; it is not tested against itself.
    """
    arms = [arm for arm in _arms(curves) if _pairs(curves, arm, RATIOS[0])]
    rows: dict[str, dict[str, Any]] = {}
    for arm in arms:
        rows[arm] = {"arm": ARMS[arm].title, "pairs": sum(map(len, _pairs(curves, arm, RATIOS[0]).values()))}
    for ratio in RATIOS:
        pairs = {arm: _pairs(curves, arm, ratio) for arm in arms}
        corrected = p_values({arm: each for arm, each in pairs.items() if arm != BASELINE}) if ratio.p else {}
        for arm in arms:
            itself = arm == BASELINE and ratio.cost == ratio.over
            rows[arm][ratio.heading] = "1" if itself else _ratio(interval(pairs[arm]))
            if ratio.p:
                rows[arm][ratio.p] = f"{corrected[arm]:.2g}" if arm in corrected else ""
    return tabulate(list(rows.values()), headers="keys", tablefmt="github", disable_numparse=True)


@dataclasses.dataclass(frozen=True)
class Cost:
    """A cost ratio, its 95 % interval, and how many pairs of runs it is of."""

    ratio: str
    low: str
    high: str
    pairs: int


def cost_over_grpo(folder: Path, arm: str, target: float, task: str = "hopqa") -> Cost:
    """Sampled tokens until an accuracy, over GRPO's in the same world and seed."""
    sampled = Ratio("sampled tokens", SAMPLED, SAMPLED, target)
    pairs = _pairs([curve for curve in read_curves(folder) if curve.task == task], arm, sampled)
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
        for name, cost in (("sampled", SAMPLED), ("trained, distinct", DISTINCT), ("trained, in rows", IN_ROWS)):
            row[f"k tokens {name}"] = f"{interquartile_mean([curve.cost[cost][-1] for curve in own]) / 1e3:.0f}"
        for target in TARGETS:
            came = sum(curve.cost_to_reach(target, "step") < math.inf for curve in own)
            row[f"came to {target:.0%}"] = f"{came}/{len(own)}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def clock(file: Path, folder: Path, task: str = "hopqa") -> str:
    """What a step's rollout takes (`benchmarks.lab.clock`) times the steps to 80 %, over GRPO's, for each arm.

    The interval is that of the steps: the simulation's ratio, a median over seeds, counts as known.
    """
    if not file.exists():
        return "The simulation has not run yet."
    curves = [curve for curve in read_curves(folder) if curve.task == task]
    rows = []
    result = json.loads(file.read_text())
    told, seeds = result["settings"], {run["seed"] for run in result["runs"]}
    for entry in result["rows"]:
        arm, takes = entry["arm"], entry["over grpo"]
        pairs = _pairs(curves, arm, RATIOS[-1])
        steps = interval(pairs) if pairs else None
        row = {"arm": ARMS[arm].title, "a step's rollout, s": f"{entry['seconds']:.0f}", "over GRPO's": f"{takes:.2f}"}
        row["pairs"] = str(steps.runs if steps else 0)
        for heading, factor in ((RATIOS[-1].heading, 1.0), ("rollout time to 80%", takes)):
            row[heading] = _ratio(steps, factor) if steps and arm != BASELINE else "1" if steps else ""
        rows.append(row)
    said = (
        f"{told['prompts']} prompts, {told['engines']} engines, tools {told['tools']}; medians over {len(seeds)} seeds."
    )
    return f"{said}\n\n{tabulate(rows, headers='keys', tablefmt='github', disable_numparse=True)}"


DRAWN = ("grpo", "gspo", "dapo", "tree_grpo", "entropy_branching", "paper", "rounds_8", "rounds_4", "tree")


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


def _pairs(curves: Sequence[Curve], arm: str, ratio: Ratio) -> dict[int, list[float]]:
    return paired(curves, arm, BASELINE, log_ratio(ratio.target, ratio.cost, ratio.over))


def _arms(curves: Sequence[Curve]) -> list[str]:
    there = {curve.arm for curve in curves}
    return [arm for arm in ARMS if arm in there and not arm.startswith("verl_")]


def _at(curve: Curve, step: int) -> float:
    return float(np.interp(step, curve.cost["step"], curve.accuracy))


def _ratio(found: Interval, factor: float = 1.0) -> str:
    estimate, low, high = (factor * math.exp(each) for each in (found.estimate, found.low, found.high))
    return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"
