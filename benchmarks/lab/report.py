"""Tables of the laboratory's results, from its result files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.lab import parts
from benchmarks.lab.arms import ARMS, TUNING, TWICE_THE_RATE
from benchmarks.lab.curves import (
    Curve,
    interquartile_mean,
    interval,
    log_ratio,
    over_gain,
    p_value,
    p_values,
    paired,
    read_curves,
)
from benchmarks.lab.tuning import table as tuning_table
from benchmarks.markdown import table

BASELINE = "grpo"
NONE_YET = "No run is done yet."
PILOTS = {"hopqa": (0, 4)}
"""Worlds that learning rates were tuned in; nothing is concluded from them."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A column of cost ratios.

    Attributes:
        heading: of the column.
        cost: cost of an arm.
        over: cost of the baseline that it is divided by.
        target: accuracy that both have to reach.
        tested: a column of p values follows.
    """

    heading: str
    cost: str
    over: str
    target: float
    tested: bool = False


Targets: TypeAlias = tuple[float, float, float]
SAMPLED, DISTINCT, IN_ROWS = "sampled_tokens", "trained_tokens_distinct", "trained_tokens_in_rows"


def to_reach(target: float, of: str = "") -> tuple[Ratio, ...]:
    """Columns of the table of costs to reach one target: sampled tokens and steps.

    Args:
        target: accuracy, or share ``of`` something.
    """
    aim = f"{target:.0%}{of}"
    return (
        Ratio(f"sampled tokens to {aim}", SAMPLED, SAMPLED, target, tested=True),
        Ratio(f"steps to {aim}", "step", "step", target, tested=True),
    )


def to_train(target: float, of: str = "") -> tuple[Ratio, ...]:
    """Columns of the table of trained tokens to one target.

    Rows hold every token as often as verl trains it, the distinct tokens once each, as `+train=packed` does.
    """
    return (
        Ratio("distinct, over GRPO's distinct", DISTINCT, DISTINCT, target, tested=True),
        Ratio("in rows, over GRPO's rows", IN_ROWS, IN_ROWS, target),
        Ratio("distinct, over GRPO's rows", DISTINCT, IN_ROWS, target),
    )


@dataclasses.dataclass(frozen=True)
class Asked:
    """Targets of a task's runs.

    Attributes:
        title, short: of the task.
        targets: rising accuracies that GRPO reaches.
        of_gain: targets are shares of what GRPO gains in a run, because worlds differ in what can be learnt there.
    """

    title: str
    short: str
    targets: Targets
    of_gain: bool = False

    @property
    def aim(self) -> str:
        """Description of the targets."""
        return f"a share of what {ARMS[BASELINE].title} gains in that run" if self.of_gain else "an accuracy"

    @property
    def of(self) -> str:
        """Words after a target."""
        return " of the gain" if self.of_gain else ""


TASKS = {
    "hopqa": Asked("HopQA, 2 to 6 hops", "HopQA", (0.5, 0.7, 0.8)),
    "text_world": Asked("Text world", "text world", (0.5, 0.7, 0.8), of_gain=True),
}


def costs(results: Path, task: str, columns: Callable[[float, str], tuple[Ratio, ...]] = to_reach) -> str:
    """Costs of every arm to reach a task's highest target, relative to the baseline's in the same world and seed."""
    asked, runs = TASKS[task], counted(results, task)
    return ratios(runs, columns(asked.targets[-1], asked.of)) if runs else NONE_YET


def earlier_targets(results: Path, task: str) -> str:
    """Sampled tokens of every arm to a task's lower targets."""
    asked, runs = TASKS[task], counted(results, task)
    return ratios(runs, [to_reach(target, asked.of)[0] for target in asked.targets[:-1]]) if runs else NONE_YET


def accuracies(results: Path, task: str) -> str:
    """Accuracies of every arm on the way and at the end, and how many of its runs reached the highest target."""
    asked, runs = TASKS[task], counted(results, task)
    return levels(runs, asked.targets[-1], asked.of) if runs else NONE_YET


def part_table(results: Path, task: str) -> str:
    """Costs of each part of the tree: with it, relative to without it, in the same world and seed."""
    asked, runs = TASKS[task], counted(results, task)
    return parts.table(runs, asked.targets[-1], asked.of) if runs else NONE_YET


def tried(results: Path, task: str) -> str:
    """Learning rates and clip ranges, in worlds that nothing else is concluded from."""
    pilots = _runs(results, task)[1]
    return tuning_table(pilots) if any(curve.arm in TUNING for curve in pilots) else NONE_YET


def ratios(curves: Sequence[Curve], columns: Sequence[Ratio]) -> str:
    """One row an arm: cost ratios with 95 % intervals, and p values with Holm's correction over a column's arms.

    A baseline has a row too, for its distinct tokens over those of its rows; it is not tested against itself.
    """
    arms = [arm for arm in _arms(curves) if _pairs(curves, arm, columns[0])]
    rows: dict[str, dict[str, Any]] = {}
    for arm in arms:
        rows[arm] = {"arm": ARMS[arm].title, "paired runs": sum(map(len, _pairs(curves, arm, columns[0]).values()))}
    for ratio in columns:
        pairs = {arm: _pairs(curves, arm, ratio) for arm in arms}
        tested = {arm: each for arm, each in pairs.items() if arm != BASELINE}
        corrected = p_values(tested) if ratio.tested else {}
        for arm in arms:
            itself = arm == BASELINE and ratio.cost == ratio.over
            rows[arm][ratio.heading] = "1" if itself else interval(pairs[arm]).as_ratio()
            if ratio.tested:
                rows[arm][f"p, {ratio.heading.split()[0].strip(',')}"] = (
                    f"{corrected[arm]:.2g}" if arm in corrected else ""
                )
    return table(list(rows.values()))


@dataclasses.dataclass(frozen=True)
class Cost:
    """A cost relative to another arm's.

    Attributes:
        ratio: interquartile mean over paired runs.
        low, high: 95 % interval.
        runs: number of paired runs.
        p: of the Wilcoxon signed-rank test against 1, without a correction for other tests.
    """

    ratio: float
    low: float
    high: float
    runs: int
    p: float

    @property
    def change(self) -> str:
        """The change in per cent, e.g. ``-39 %``."""
        return f"{100 * (self.ratio - 1):+.0f} %"

    @property
    def change_interval(self) -> str:
        """The interval of the change, e.g. ``-43 to -35 %``."""
        return f"{100 * (self.low - 1):+.0f} to {100 * (self.high - 1):+.0f} %"


def relative_cost(
    curves: Sequence[Curve], arm: str, target: float, cost: str = SAMPLED, other: str = BASELINE
) -> Cost | None:
    """Sampled tokens, or another cost, to a target, relative to another arm's in the same world and seed."""
    pairs = paired(curves, arm, other, log_ratio(target, cost))
    if not pairs:
        return None
    found = interval(pairs)
    ratio, low, high = (math.exp(each) for each in (found.estimate, found.low, found.high))
    return Cost(ratio, low, high, found.runs, p_value(pairs))


def levels(curves: Sequence[Curve], target: float, of: str = "") -> str:
    """One row an arm: accuracies on the way and at the end, sampled tokens, runs that reached a target.

    Points over GRPO are of the mean accuracy over equally many steps, in the same world and seed.
    """
    rows = []
    for arm in _arms(curves):
        own = [curve for curve in curves if curve.arm == arm]
        row: dict[str, Any] = {"arm": ARMS[arm].title, "runs": len(own)}
        row["points over GRPO, mean over steps"] = _over_grpo(curves, arm)
        for step in (20, 40):
            at = [curve.at_step(step) for curve in own if curve.cost["step"][-1] >= step]
            row[f"accuracy at step {step}"] = f"{interquartile_mean(at):.1%}" if at else ""
        row["k tokens sampled"] = f"{interquartile_mean([curve.cost[SAMPLED][-1] for curve in own]) / 1e3:.0f}"
        reached = sum(curve.cost_to_reach(target, "step") < math.inf for curve in own)
        row[f"reached {target:.0%}{of}"] = f"{reached}/{len(own)}"
        rows.append(row)
    return table(rows)


def clock(file: Path, results: Path, task: str = "hopqa") -> str:
    """Rollout seconds of a step (`benchmarks.lab.clock`) times the steps to 80 %, relative to GRPO's, for each arm.

    The interval is that of the steps: the simulation's ratio, a median over seeds, counts as known.
    """
    if not file.exists():
        return "The simulation has not run yet."
    curves = counted(results, task)
    rows, steps_to_top = [], to_reach(TASKS[task].targets[-1])[-1]
    result = json.loads(file.read_text())
    settings, seeds = result["settings"], {run["seed"] for run in result["runs"]}
    for entry in result["rows"]:
        arm, takes = entry["arm"], entry["over grpo"]
        pairs = _pairs(curves, arm, steps_to_top)
        steps = interval(pairs) if pairs else None
        row = {"arm": ARMS[arm].title, "a step's rollout, s": f"{entry['seconds']:.0f}", "over GRPO's": f"{takes:.2f}"}
        row["pairs"] = str(steps.runs if steps else 0)
        for heading, factor in ((steps_to_top.heading, 1.0), ("rollout time to 80%", takes)):
            row[heading] = steps.as_ratio(factor) if steps and arm != BASELINE else "1" if steps else ""
        rows.append(row)
    of = f"{settings['prompts']} prompts, {settings['engines']} engines, tools {settings['tools']}"
    return f"{of}; medians over {len(seeds)} seeds.\n\n{table(rows)}"


def counted(results: Path, task: str) -> list[Curve]:
    """The task's runs, without those in pilot worlds."""
    return _runs(results, task)[0]


def _runs(results: Path, task: str) -> tuple[list[Curve], list[Curve]]:
    """The task's runs that count, and those in pilot worlds."""
    runs, pilots = [curve for curve in read_curves(results) if curve.task == task], PILOTS.get(task, ())
    if TASKS[task].of_gain:
        runs = over_gain(runs, BASELINE)
    return [each for each in runs if each.world not in pilots], [each for each in runs if each.world in pilots]


def _pairs(curves: Sequence[Curve], arm: str, ratio: Ratio) -> dict[int, list[float]]:
    return paired(curves, arm, BASELINE, log_ratio(ratio.target, ratio.cost, ratio.over))


def _arms(curves: Sequence[Curve]) -> list[str]:
    there = {curve.arm for curve in curves}
    elsewhere = {*TUNING, *TWICE_THE_RATE}
    return [arm for arm in ARMS if arm in there and arm not in elsewhere and not arm.startswith("verl_")]


def _over_grpo(curves: Sequence[Curve], arm: str) -> str:
    def points(ours: Curve, theirs: Curve) -> float:
        steps = min(ours.cost["step"][-1], theirs.cost["step"][-1])
        return 100 * (ours.mean_until(steps, "step") - theirs.mean_until(steps, "step"))

    pairs = paired(curves, arm, BASELINE, points)
    if arm == BASELINE or not pairs:
        return ""
    found = interval(pairs)
    return f"{found.estimate:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
