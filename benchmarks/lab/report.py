"""The laboratory's section of `docs/results.md`, from its result files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tabulate import tabulate

from benchmarks.lab.arms import ARMS, TUNING
from benchmarks.lab.curves import (
    Curve,
    interquartile_mean,
    interval,
    log_ratio,
    over_gain,
    p_values,
    paired,
    read_curves,
)
from benchmarks.lab.parts import table as part_table
from benchmarks.lab.tuning import table as tuning_table

BASELINE = "grpo"
PILOTS = {"hopqa": (0, 4)}
"""Worlds that learning rates were tried in, and nothing is concluded from."""


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


Targets: TypeAlias = tuple[float, float, float]
SAMPLED, DISTINCT, IN_ROWS = "sampled_tokens", "trained_tokens_distinct", "trained_tokens_in_rows"


def columns(targets: Targets, of: str = "") -> tuple[Ratio, ...]:
    """Costs to come to three accuracies, or shares ``of`` something, most of them to the highest.

    Rows hold every token as often as verl trains it, the distinct tokens once each, as `+train=packed` does.
    """
    low, middle, high = (f"{target:.0%}{of}" for target in targets)
    top = targets[-1]
    return (
        Ratio(f"sampled tokens to {low}", SAMPLED, SAMPLED, targets[0]),
        Ratio(f"sampled tokens to {middle}", SAMPLED, SAMPLED, targets[1], f"p, sampled to {middle}"),
        Ratio(f"sampled tokens to {high}", SAMPLED, SAMPLED, top, f"p, sampled to {high}"),
        Ratio(f"trained to {high}, distinct over GRPO's distinct", DISTINCT, DISTINCT, top),
        Ratio(f"trained to {high}, rows over GRPO's rows", IN_ROWS, IN_ROWS, top),
        Ratio(f"trained to {high}, distinct over GRPO's rows", DISTINCT, IN_ROWS, top, "p, distinct over GRPO's rows"),
        Ratio(f"steps to {high}", "step", "step", top),
    )


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of a task's runs.

    Attributes:
        title: of the task.
        targets: accuracies that GRPO comes to, rising.
        of_gain: they are shares of what GRPO gains in a run, for worlds differ in what can be learnt there.
    """

    title: str
    targets: Targets
    of_gain: bool = False

    @property
    def aim(self) -> str:
        """What is to be reached."""
        return f"a share of what {ARMS[BASELINE].title} gains there in all" if self.of_gain else "an accuracy"

    @property
    def of(self) -> str:
        """Words behind a target."""
        return " of the gain" if self.of_gain else ""


TASKS = {
    "hopqa": Asked("HopQA, 2 to 6 hops", (0.5, 0.7, 0.8)),
    "text_world": Asked("Text world", (0.5, 0.7, 0.8), of_gain=True),
}


def tables(folder: Path) -> str:
    """All tables, in Markdown, task by task."""
    parts = []
    for task, asked in TASKS.items():
        own, tried = _runs(folder, task)
        if not own:
            parts.append(f"**{asked.title}**: no run is done yet.")
            continue
        parts += [
            f"**{asked.title}**. Cost to reach {asked.aim}, over that of {ARMS[BASELINE].title} with 16 trajectories a "
            "prompt in the same world and seed:",
            ratios(own, asked.targets, asked.of),
            "Interquartile means over runs, and how many of the runs came so far:",
            levels(own, asked.targets, asked.of),
            "What each part is worth: costs with it, over costs without it, in the same world and seed:",
            part_table(own, *asked.targets[1:], asked.of),
        ]
        if any(curve.arm in TUNING for curve in tried):
            parts += ["Learning rates and clip ranges, in worlds that count nowhere else:", tuning_table(tried)]
    return "\n\n".join(parts)


def ratios(curves: Sequence[Curve], targets: Targets, of: str = "") -> str:
    """One row an arm: cost ratios with 95 % intervals, and p values with Holm's correction over a column's arms.

    A baseline has a row too, for its distinct tokens over those of its rows; it is not tested against itself.
    """
    asked = columns(targets, of)
    arms = [arm for arm in _arms(curves) if _pairs(curves, arm, asked[0])]
    rows: dict[str, dict[str, Any]] = {}
    for arm in arms:
        rows[arm] = {"arm": ARMS[arm].title, "pairs": sum(map(len, _pairs(curves, arm, asked[0]).values()))}
    for ratio in asked:
        pairs = {arm: _pairs(curves, arm, ratio) for arm in arms}
        tested = {arm: each for arm, each in pairs.items() if arm != BASELINE}
        corrected = p_values(tested) if ratio.p else {}
        for arm in arms:
            itself = arm == BASELINE and ratio.cost == ratio.over
            rows[arm][ratio.heading] = "1" if itself else interval(pairs[arm]).as_ratio()
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

    @property
    def told(self) -> str:
        """The ratio with its interval."""
        return f"{self.ratio} [{self.low}, {self.high}]"


def cost_over_grpo(curves: Sequence[Curve], arm: str, target: float, cost: str = SAMPLED) -> Cost:
    """Sampled tokens, or another cost, until an accuracy, over GRPO's in the same world and seed."""
    pairs = _pairs(curves, arm, Ratio(cost, cost, cost, target))
    found = interval(pairs)
    ratio, low, high = (f"{math.exp(each):.2f}" for each in (found.estimate, found.low, found.high))
    return Cost(ratio, low, high, sum(map(len, pairs.values())))


def levels(curves: Sequence[Curve], targets: Targets, of: str = "") -> str:
    """One row an arm: accuracies on the way and at the end, what a run samples and trains, how many came how far.

    Points ahead of GRPO are of the mean accuracy over equally many steps, in the same world and seed.
    """
    rows = []
    for arm in _arms(curves):
        own = [curve for curve in curves if curve.arm == arm]
        row: dict[str, Any] = {"arm": ARMS[arm].title, "runs": len(own)}
        for step in (10, 20, 40):
            at = [curve.at_step(step) for curve in own if curve.cost["step"][-1] >= step]
            row[f"accuracy at step {step}"] = f"{interquartile_mean(at):.1%}" if at else ""
        row["points ahead of GRPO on the way"] = _ahead(curves, arm)
        for name, cost in (("sampled", SAMPLED), ("trained, distinct", DISTINCT), ("trained, in rows", IN_ROWS)):
            row[f"k tokens {name}"] = f"{interquartile_mean([curve.cost[cost][-1] for curve in own]) / 1e3:.0f}"
        for target in targets:
            came = sum(curve.cost_to_reach(target, "step") < math.inf for curve in own)
            row[f"came to {target:.0%}{of}"] = f"{came}/{len(own)}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def clock(file: Path, folder: Path, task: str = "hopqa") -> str:
    """What a step's rollout takes (`benchmarks.lab.clock`) times the steps to 80 %, over GRPO's, for each arm.

    The interval is that of the steps: the simulation's ratio, a median over seeds, counts as known.
    """
    if not file.exists():
        return "The simulation has not run yet."
    curves = counted(folder, task)
    rows, steps_to_top = [], columns(TASKS[task].targets)[-1]
    result = json.loads(file.read_text())
    told, seeds = result["settings"], {run["seed"] for run in result["runs"]}
    for entry in result["rows"]:
        arm, takes = entry["arm"], entry["over grpo"]
        pairs = _pairs(curves, arm, steps_to_top)
        steps = interval(pairs) if pairs else None
        row = {"arm": ARMS[arm].title, "a step's rollout, s": f"{entry['seconds']:.0f}", "over GRPO's": f"{takes:.2f}"}
        row["pairs"] = str(steps.runs if steps else 0)
        for heading, factor in ((steps_to_top.heading, 1.0), ("rollout time to 80%", takes)):
            row[heading] = steps.as_ratio(factor) if steps and arm != BASELINE else "1" if steps else ""
        rows.append(row)
    said = (
        f"{told['prompts']} prompts, {told['engines']} engines, tools {told['tools']}; medians over {len(seeds)} seeds."
    )
    return f"{said}\n\n{tabulate(rows, headers='keys', tablefmt='github', disable_numparse=True)}"


def counted(folder: Path, task: str) -> list[Curve]:
    """The task's runs, without those in pilot worlds."""
    return _runs(folder, task)[0]


def _runs(folder: Path, task: str) -> tuple[list[Curve], list[Curve]]:
    """The task's runs that count, and those in pilot worlds."""
    runs, pilots = [curve for curve in read_curves(folder) if curve.task == task], PILOTS.get(task, ())
    if TASKS[task].of_gain:
        runs = over_gain(runs, BASELINE)
    return [each for each in runs if each.world not in pilots], [each for each in runs if each.world in pilots]


def _pairs(curves: Sequence[Curve], arm: str, ratio: Ratio) -> dict[int, list[float]]:
    return paired(curves, arm, BASELINE, log_ratio(ratio.target, ratio.cost, ratio.over))


def _arms(curves: Sequence[Curve]) -> list[str]:
    there = {curve.arm for curve in curves}
    return [arm for arm in ARMS if arm in there and arm not in TUNING and not arm.startswith("verl_")]


def _ahead(curves: Sequence[Curve], arm: str) -> str:
    def points(ours: Curve, theirs: Curve) -> float:
        steps = min(ours.cost["step"][-1], theirs.cost["step"][-1])
        return 100 * (ours.mean_until(steps, "step") - theirs.mean_until(steps, "step"))

    pairs = paired(curves, arm, BASELINE, points)
    if arm == BASELINE or not pairs:
        return ""
    found = interval(pairs)
    return f"{found.estimate:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
