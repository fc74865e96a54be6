"""Tables of what is recommended now against GRPO, as it is and packed, at equal wall clock, from the result files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.learning.arms import WALL_CLOCK
from benchmarks.learning.curves import Run, last_accuracy, paired, points, read_runs, share

GRPO, PACKED_GRPO = "clock_grpo", "clock_grpo_packed"
TARGET = 0.5


def table(folder: Path, baseline: str = GRPO) -> str:
    """One row an arm, compared with a baseline seed by seed, in Markdown."""
    runs = [run for run in read_runs(folder) if run.arm in WALL_CLOCK]
    return tabulate(
        [_row(arm, runs, baseline) for arm in WALL_CLOCK if any(run.arm == arm for run in runs)],
        headers="keys",
        tablefmt="github",
        disable_numparse=True,
    )


def over_grpo(folder: Path, baseline: str = GRPO, arm: str = "clock_tree_packed") -> tuple[str, str]:
    """Points over GRPO of an arm: at equal wall clock, and after equal steps."""
    runs = [run for run in read_runs(folder) if run.arm in WALL_CLOCK]
    return _ahead(arm, runs, baseline, _at_equal_clock(runs)), _ahead(arm, runs, baseline, last_accuracy)


def _row(arm: str, runs: Sequence[Run], baseline: str) -> dict[str, str | int]:
    over = f"over {WALL_CLOCK[baseline].title} there, points"
    own, at_equal_clock = [run for run in runs if run.arm == arm], _at_equal_clock(runs)
    return {
        "arm": WALL_CLOCK[arm].title,
        "seeds": len(own),
        "accuracy at equal wall clock": share([at_equal_clock(run) for run in own]),
        over: _ahead(arm, runs, baseline, at_equal_clock),
        "after equal steps": share([last_accuracy(run) for run in own]),
        f"{over} ": _ahead(arm, runs, baseline, last_accuracy),
        f"seconds to {TARGET:.0%}, over the same": _ratio(arm, runs, baseline),
        "seconds a step": f"{statistics.fmean(run.means['seconds'] for run in own):.1f}",
        "k tokens sampled": f"{statistics.fmean(run.tokens[-1] for run in own) / 1e3:.0f}",
    }


def _at_equal_clock(runs: Sequence[Run]) -> Callable[[Run], float]:
    """Accuracy at the seconds that all runs of the seed have trained."""
    common = {seed: min(run.seconds[-1] for run in runs if run.seed == seed) for seed in {run.seed for run in runs}}
    return lambda run: float(np.interp(common[run.seed], run.seconds, run.accuracy))


def _ahead(arm: str, runs: Sequence[Run], baseline: str, figure: Callable[[Run], float]) -> str:
    return "" if arm == baseline else points(paired(runs, arm, baseline, figure))


def seconds_to(run: Run, accuracy: float) -> float | None:
    """Seconds of training until a validation's accuracy is reached, interpolated; None if it never is."""
    for number, height in enumerate(run.accuracy):
        if height >= accuracy:
            first = max(number - 1, 0)
            return float(np.interp(accuracy, run.accuracy[first : number + 1], run.seconds[first : number + 1]))
    return None


def _ratio(arm: str, runs: Sequence[Run], baseline: str) -> str:
    """Geometric mean over the seeds in which both come so far, and how many these are."""
    reached = {(run.arm, run.seed): seconds_to(run, TARGET) for run in runs}
    pairs = [(ours, theirs) for (name, seed), ours in reached.items()
             if name == arm and ours and (theirs := reached.get((baseline, seed)))]  # fmt: skip
    if not pairs:
        return ""
    mean = statistics.geometric_mean(ours / theirs for ours, theirs in pairs)
    return f"{mean:.2f} ({len(pairs)} of {sum(run.arm == arm for run in runs)})"
