"""Accuracy over sampled tokens, and paired comparisons of arms, from the result files."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from benchmarks import runs as table_of_runs


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        arm, seed: which run.
        tokens: sampled in training before each validation; 0 first, rising.
        steps: training steps before each validation.
        seconds: of these steps, without start-up and validations.
        accuracy: of each validation, mean over the numbers of hops.
        by_source: the same by data source.
        rewards, rewards_tokens: mean training reward of each step, tokens sampled up to its end.
        means: mean over the steps of everything in `results.KEPT`; what an arm does not have is left out.
    """

    arm: str
    seed: int
    tokens: tuple[float, ...]
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    accuracy: tuple[float, ...]
    by_source: tuple[Mapping[str, float], ...]
    rewards: tuple[float, ...]
    rewards_tokens: tuple[float, ...]
    means: Mapping[str, float]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Run:
        """Read the curves of a run's record."""
        kept, validation = record["steps"], record["validation"]
        total, clock = (np.cumsum([0, *kept[name]]) for name in ("sampled_tokens", "seconds"))
        return cls(
            arm=record["arm"],
            seed=record["seed"],
            tokens=tuple(float(total[each["step"]]) for each in validation),
            steps=tuple(each["step"] for each in validation),
            seconds=tuple(float(clock[each["step"]]) for each in validation),
            accuracy=tuple(statistics.fmean(each["accuracy"].values()) for each in validation),
            by_source=tuple(each["accuracy"] for each in validation),
            rewards=tuple(kept["reward"]),
            rewards_tokens=tuple(float(each) for each in total[1:]),
            means=_means(kept),
        )

    def accuracy_at(self, tokens: float) -> float:
        """Validation accuracy after so many sampled tokens, interpolated."""
        return float(np.interp(tokens, self.tokens, self.accuracy))

    def mean_accuracy_until(self, tokens: float) -> float:
        """Mean height of the validation curve from 0 to `tokens`: how fast a run learns, in one number."""
        inside = [each for each in self.tokens if each < tokens]
        heights = [self.accuracy_at(each) for each in (*inside, tokens)]
        return float(np.trapezoid(heights, (*inside, tokens)) / tokens)


def _means(kept: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    there = {name: [each for each in values if each is not None] for name, values in kept.items()}
    return {name: statistics.fmean(values) for name, values in there.items() if values}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Paired difference of two arms over the seeds both have.

    Attributes:
        seeds: how many.
        mean: of the differences.
        error: standard error of the mean; None with a single seed.
        p: of the two-sided paired t-test; None with a single seed, or where all differences are equal.
    """

    seeds: int
    mean: float
    error: float | None
    p: float | None


def read_runs(table: Path) -> list[Run]:
    """Read a table of runs, by arm and seed."""
    return sorted(map(Run.of, table_of_runs.read(table)), key=lambda run: (run.arm, run.seed))


def common_tokens(runs: Iterable[Run]) -> dict[int, float]:
    """Return for each seed the number of tokens that all of its runs have sampled; its arms are compared there."""
    common: dict[int, float] = {}
    for run in runs:
        common[run.seed] = min(run.tokens[-1], common.get(run.seed, math.inf))
    return common


def mean_and_error(values: list[float]) -> tuple[float, float | None]:
    """Mean, and its standard error (None for one value)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def paired(runs: Iterable[Run], arm: str, other: str, figure: Callable[[Run], float]) -> Difference | None:
    """Difference of a figure, `arm` minus `other`, seed by seed; None if they share no seed."""
    values = {(run.arm, run.seed): figure(run) for run in runs if run.arm in (arm, other)}
    seeds = [seed for name, seed in values if name == arm and (other, seed) in values]
    if not seeds:
        return None
    ours, theirs = ([values[name, seed] for seed in seeds] for name in (arm, other))
    mean, error = mean_and_error([a - b for a, b in zip(ours, theirs, strict=True)])
    return Difference(len(seeds), mean, error, float(ttest_rel(ours, theirs).pvalue) if error else None)


def last_accuracy(run: Run) -> float:
    """Accuracy after the last step: arms compared at equal steps and trajectories, not tokens."""
    return run.accuracy[-1]


def share(values: list[float]) -> str:
    """Mean in per cent, with its standard error in points."""
    mean, error = mean_and_error(values)
    return f"{mean:.1%}" if error is None else f"{mean:.1%} ± {100 * error:.1f}"


def points(difference: Difference | None) -> str:
    """A difference of shares, in percentage points, with its standard error and p."""
    if difference is None:
        return "no common seed"
    mean = f"{100 * difference.mean:+.1f}"
    if difference.error is None:
        return f"{mean} (one seed)"
    return f"{mean} ± {100 * difference.error:.1f}" + ("" if difference.p is None else f" (p={difference.p:.2g})")
