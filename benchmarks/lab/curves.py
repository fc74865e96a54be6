"""Costs to reach an accuracy from the result files: means over runs, and their confidence intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import trim_mean, wilcoxon
from statsmodels.stats.multitest import multipletests

from benchmarks import runs

COSTS = ("step", "sampled_tokens", "trained_tokens_in_rows", "trained_tokens_distinct")
"""Costs of a point of a curve, from the start of the run."""
RESAMPLES = 5000
TRIMMED = 0.25
"""Share that an interquartile mean leaves out at each end."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A finished run.

    Attributes:
        task, arm, world, seed: which.
        accuracy: of every validation.
        cost: by name (`COSTS`), one value a validation, rising.
        scale: the accuracies that a target of 0 and one of 1 stand for.
    """

    task: str
    arm: str
    world: int
    seed: int
    accuracy: tuple[float, ...]
    cost: Mapping[str, tuple[float, ...]]
    scale: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Curve:
        """Read the curve of a run's record."""
        points = record["curve"]
        return cls(
            *(record[name] for name in ("task", "arm", "world", "seed")),
            accuracy=tuple(point["accuracy"] for point in points),
            cost={name: tuple(point[name] for point in points) for name in COSTS},
        )

    def cost_to_reach(self, target: float, cost: str) -> float:
        """Cost at which the curve, straight between validations, first reaches a target; infinite if it never does."""
        spent, (none, whole) = self.cost[cost], self.scale
        accuracy = none + target * (whole - none)
        if self.accuracy[0] >= accuracy:
            return spent[0]
        for at in range(1, len(spent)):
            before, after = self.accuracy[at - 1], self.accuracy[at]
            if after >= accuracy:
                return spent[at - 1] + (accuracy - before) / (after - before) * (spent[at] - spent[at - 1])
        return math.inf

    def at_step(self, step: float) -> float:
        """Accuracy after a step, straight between validations."""
        return float(np.interp(step, self.cost["step"], self.accuracy))

    def mean_until(self, limit: float, cost: str) -> float:
        """Mean height of the curve from 0 to a cost that it has: how fast it learns, without a threshold."""
        spent = self.cost[cost]
        inside = [each for each in spent if each < limit]
        heights = np.interp([*inside, limit], spent, self.accuracy)
        return float(np.trapezoid(heights, [*inside, limit]) / limit)


Pairs = dict[int, list[float]]
"""One number a pair of runs, by world."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interquartile mean and the middle 95 % of its stratified bootstrap.

    Attributes:
        estimate, low, high: of it.
        runs: how many numbers it is made of.
    """

    estimate: float
    low: float
    high: float
    runs: int

    def as_ratio(self, factor: float = 1.0) -> str:
        """The ratio, times a factor, whose logarithm this is of."""
        estimate, low, high = (factor * math.exp(each) for each in (self.estimate, self.low, self.high))
        return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"


def read_curves(table: Path) -> list[Curve]:
    """Read the curves of a table of runs."""
    return [Curve.of(run) for run in runs.read(table)]


def over_gain(curves: Sequence[Curve], baseline: str) -> list[Curve]:
    """The curves, with targets as shares of what the baseline gains in the same task, world and seed.

    It gains the difference between its first validation and the mean of its last two; where that is nothing, or where
    the baseline has not run, no share is defined and the curve is left out.
    """
    gains = {
        (curve.task, curve.world, curve.seed): (curve.accuracy[0], sum(curve.accuracy[-2:]) / 2)
        for curve in curves
        if curve.arm == baseline and len(curve.accuracy) > 2
    }
    scaled = [(curve, gains.get((curve.task, curve.world, curve.seed), (0.0, 0.0))) for curve in curves]
    return [dataclasses.replace(curve, scale=scale) for curve, scale in scaled if scale[0] < scale[1]]


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half."""
    return float(trim_mean(values, TRIMMED))


def interval(values: Pairs, seed: int = 0) -> Interval:
    """Interquartile mean with its interval; runs are drawn again inside their world, as rliable does inside a task.

    Where a world has a single run, nothing could be drawn there, and runs are drawn again from all of them.
    """
    rng = np.random.default_rng(seed)
    strata = [np.array(each) for each in values.values()]
    if min(map(len, strata)) == 1:
        strata = [np.concatenate(strata)]
    drawn = np.concatenate([rng.choice(each, (RESAMPLES, len(each))) for each in strata], axis=1)
    low, high = np.quantile(trim_mean(drawn, TRIMMED, axis=1), [0.025, 0.975])
    flat = np.concatenate(strata)
    return Interval(interquartile_mean(flat.tolist()), float(low), float(high), len(flat))


def paired(curves: Iterable[Curve], arm: str, other: str, figure: Callable[[Curve, Curve], float]) -> Pairs:
    """A figure of every pair of runs that share task, world and seed, by world."""
    found = {(curve.arm, curve.task, curve.world, curve.seed): curve for curve in curves}
    pairs: Pairs = {}
    for (name, *run), ours in found.items():
        theirs = found.get((other, *run))
        if name == arm and theirs is not None:
            pairs.setdefault(ours.world, []).append(figure(ours, theirs))
    return pairs


def log_ratio(target: float, cost: str, over: str | None = None) -> Callable[[Curve, Curve], float]:
    """log of our cost to reach a target over theirs, which may be one of another kind.

    A run that never got there is taken to do so at the next point of its last step's pace (that is, censored at its
    end); a pair of which neither got there says nothing, 0.
    """

    def figure(ours: Curve, theirs: Curve) -> float:
        both = ((ours, cost), (theirs, over or cost))
        reached = [curve.cost_to_reach(target, name) for curve, name in both]
        ends = [min(where, curve.cost[name][-1]) for where, (curve, name) in zip(reached, both, strict=True)]
        if min(reached) == math.inf or min(ends) == 0:
            return 0.0
        return math.log(ends[0] / ends[1])

    return figure


def p_value(pairs: Pairs) -> float:
    """Two-sided Wilcoxon signed-rank test of numbers against 0; without a number other than 0, p = 1."""
    values = [value for each in pairs.values() for value in each]
    return float(wilcoxon(values).pvalue) if any(values) else 1.0


def p_values(tests: Mapping[str, Pairs]) -> dict[str, float]:
    """Tests of numbers against 0, by name, with Holm's correction over all of them."""
    raw = [p_value(pairs) for pairs in tests.values()]
    return dict(zip(tests, multipletests(raw, method="holm")[1].tolist(), strict=True)) if raw else {}
