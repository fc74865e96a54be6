"""The table of what is recommended now against GRPO, at equal wall clock, from the result files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.learning.arms import WALL_CLOCK
from benchmarks.learning.curves import Difference, Run, mean_and_error, paired, read_runs

BASELINE = "clock_grpo"
TARGET = 0.5


def table(folder: Path) -> str:
    """One row an arm, compared with GRPO seed by seed, in Markdown."""
    runs = [run for run in read_runs(folder) if run.arm in WALL_CLOCK]
    return tabulate(
        [_row(arm, runs) for arm in WALL_CLOCK if any(run.arm == arm for run in runs)],
        headers="keys",
        tablefmt="github",
        disable_numparse=True,
    )


def _row(arm: str, runs: Sequence[Run]) -> dict[str, str | int]:
    own = [run for run in runs if run.arm == arm]
    common = {seed: min(run.seconds[-1] for run in runs if run.seed == seed) for seed in {run.seed for run in runs}}

    def at_equal_clock(run: Run) -> float:
        return float(np.interp(common[run.seed], run.seconds, run.accuracy))

    def ahead(difference: Difference | None) -> str:
        if arm == BASELINE or difference is None:
            return ""
        error = "" if difference.error is None else f" ± {100 * difference.error:.1f}"
        return f"{100 * difference.mean:+.1f}{error}" + ("" if difference.p is None else f" (p={difference.p:.2g})")

    return {
        "arm": WALL_CLOCK[arm].title,
        "seeds": len(own),
        "accuracy at equal wall clock": _share([at_equal_clock(run) for run in own]),
        "over GRPO there, points": ahead(paired(runs, arm, BASELINE, at_equal_clock)),
        "after equal steps": _share([run.accuracy[-1] for run in own]),
        "over GRPO there, points ": ahead(paired(runs, arm, BASELINE, lambda run: run.accuracy[-1])),
        f"seconds to {TARGET:.0%}, over GRPO's": _ratio(arm, runs),
        "seconds a step": f"{statistics.fmean(run.means['seconds'] for run in own):.1f}",
        "k tokens sampled": f"{statistics.fmean(run.tokens[-1] for run in own) / 1e3:.0f}",
    }


def seconds_to(run: Run, accuracy: float) -> float | None:
    """Seconds of training until a validation's accuracy is reached, interpolated; None if it never is."""
    for number, height in enumerate(run.accuracy):
        if height >= accuracy:
            first = max(number - 1, 0)
            return float(np.interp(accuracy, run.accuracy[first : number + 1], run.seconds[first : number + 1]))
    return None


def _ratio(arm: str, runs: Sequence[Run]) -> str:
    """Geometric mean over the seeds in which both come so far."""
    reached = {(run.arm, run.seed): seconds_to(run, TARGET) for run in runs}
    pairs = [(ours, theirs) for (name, seed), ours in reached.items()
             if name == arm and ours and (theirs := reached.get((BASELINE, seed)))]  # fmt: skip
    if not pairs:
        return ""
    return f"{statistics.geometric_mean(ours / theirs for ours, theirs in pairs):.2f} ({len(pairs)} seeds)"


def _share(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.1%}" if error is None else f"{mean:.1%} ± {100 * error:.1f}"
