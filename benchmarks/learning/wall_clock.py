"""Tables of packed trees against GRPO and packed GRPO at equal wall clock, from the result files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import markdown
from benchmarks.learning.arms import WALL_CLOCK
from benchmarks.learning.curves import Run, last_accuracy, paired, points, read_runs, share

GRPO, PACKED_GRPO = "clock_grpo", "clock_grpo_packed"


def table(results: Path, baseline: str = GRPO) -> str:
    """Write a Markdown table, a row per arm, compared with a baseline seed by seed."""
    runs = [run for run in read_runs(results) if run.arm in WALL_CLOCK]
    return markdown.table([_row(arm, runs, baseline) for arm in WALL_CLOCK if any(run.arm == arm for run in runs)])


def over_baseline(
    results: Path, baseline: str = GRPO, arm: str = "clock_tree_packed"
) -> tuple[tuple[float, float, float, int], ...]:
    """Points over a baseline, at equal wall clock and after equal steps: mean, standard error, p, number of seeds."""
    runs = [run for run in read_runs(results) if run.arm in WALL_CLOCK]
    found = []
    for figure in (_at_equal_clock(runs), last_accuracy):
        difference = paired(runs, arm, baseline, figure)
        assert difference is not None and difference.error is not None, f"{arm} and {baseline} share no two seeds"
        found.append((100 * difference.mean, 100 * difference.error, difference.p or 1.0, difference.seeds))
    return tuple(found)


def _row(arm: str, runs: Sequence[Run], baseline: str) -> dict[str, str | int]:
    over = f"over {WALL_CLOCK[baseline].title} there, points"
    own, at_equal_clock = [run for run in runs if run.arm == arm], _at_equal_clock(runs)
    return {
        "arm": WALL_CLOCK[arm].title,
        "seeds": len(own),
        "accuracy at equal wall clock": share([at_equal_clock(run) for run in own]),
        over: _over(arm, runs, baseline, at_equal_clock),
        "after equal steps": share([last_accuracy(run) for run in own]),
        f"{over} ": _over(arm, runs, baseline, last_accuracy),
        "seconds a step": f"{statistics.fmean(run.means['seconds'] for run in own):.1f}",
    }


def _at_equal_clock(runs: Sequence[Run]) -> Callable[[Run], float]:
    """Accuracy at the seconds that all runs of the seed have trained."""
    common = {seed: min(run.seconds[-1] for run in runs if run.seed == seed) for seed in {run.seed for run in runs}}
    return lambda run: float(np.interp(common[run.seed], run.seconds, run.accuracy))


def _over(arm: str, runs: Sequence[Run], baseline: str, figure: Callable[[Run], float]) -> str:
    return "" if arm == baseline else points(paired(runs, arm, baseline, figure))
