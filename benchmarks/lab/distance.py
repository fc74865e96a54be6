"""Distance of an arm from the frontier of GRPO's group sizes: tokens at equal steps, and steps at equal tokens.

The frontier is the line through the costs of GRPO's sizes, each relative to GRPO with 16 trajectories in the same world
and seed, straight in logarithms. Beyond its ends the cost of the last size counts, which favours GRPO: fewer steps than
the largest size needs would take more tokens, and fewer tokens than the smallest needs more steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import trim_mean

from benchmarks import markdown
from benchmarks.lab.arms import ARMS
from benchmarks.lab.curves import RESAMPLES, TRIMMED, Curve, Interval, log_ratio
from benchmarks.lab.report import NONE_YET, SAMPLED, TASKS, counted

COMPARED = (
    ("hopqa", ("grpo_8", "grpo_12", "grpo"), ("tree", "tree_6_states")),
    ("hopqa", ("grpo_8_lr0.001", "grpo_12_lr0.001", "grpo_lr0.001"), ("tree_lr0.001", "tree_6_states_lr0.001")),
    ("text_world", ("grpo_8", "grpo_12", "grpo"), ("tree", "tree_6_states")),
)
"""Task, GRPO's sizes with the largest last, and the arms that are compared with their line."""
Run = tuple[int, int]
"""World and seed."""
Costs = Mapping[str, tuple[float, float]]
"""Logarithms of sampled tokens and steps over the largest size's, by arm."""


def relative_costs(curves: Sequence[Curve], arms: Sequence[str], baseline: str, target: float) -> dict[Run, Costs]:
    """Costs of all arms to a target, in the worlds and seeds where every one of them and the baseline has run."""
    by_run: dict[Run, dict[str, Curve]] = {}
    for curve in curves:
        by_run.setdefault((curve.world, curve.seed), {})[curve.arm] = curve
    tokens, steps = log_ratio(target, SAMPLED), log_ratio(target, "step")
    return {
        run: {arm: (tokens(there[arm], there[baseline]), steps(there[arm], there[baseline])) for arm in arms}
        for run, there in sorted(by_run.items())
        if {*arms, baseline} <= there.keys()
    }


def below(costs: Sequence[Costs], arm: str, sizes: Sequence[str]) -> tuple[float, float]:
    """Compute the logarithms of an arm's tokens at equal steps and steps at equal tokens, over the frontier's.

    Args:
        costs: of each run.
        arm: which.
        sizes: arms of the frontier, in any order.
    """
    return _from_line(trim_mean(_array(costs, arm, sizes), TRIMMED))


def _array(costs: Sequence[Costs], arm: str, sizes: Sequence[str]) -> np.ndarray:
    """Costs by run, arm (the compared one first) and kind: tokens, steps."""
    return np.array([[run[each] for each in (arm, *sizes)] for run in costs])


def _from_line(means: np.ndarray) -> tuple[float, float]:
    """Distances of the first row, tokens and steps, from the line through the others."""
    tokens, steps = means[0]
    by_tokens, by_steps = (means[1:][np.argsort(means[1:, kind])] for kind in (0, 1))
    return (
        tokens - float(np.interp(steps, by_steps[:, 1], by_steps[:, 0])),
        steps - float(np.interp(tokens, by_tokens[:, 0], by_tokens[:, 1])),
    )


def intervals(costs: Mapping[Run, Costs], arm: str, sizes: Sequence[str], seed: int = 0) -> tuple[Interval, Interval]:
    """Both distances with the middle 95 % of a bootstrap that draws runs again inside their world."""
    rng = np.random.default_rng(seed)
    runs = list(costs.values())
    worlds = [
        [at for at, (world, _) in enumerate(costs) if world == each] for each in sorted({run[0] for run in costs})
    ]
    if min(map(len, worlds)) == 1:
        worlds = [list(range(len(runs)))]
    drawn = [np.concatenate([rng.choice(world, len(world)) for world in worlds]) for _ in range(RESAMPLES // 5)]
    means = trim_mean(_array(runs, arm, sizes)[np.array(drawn)], TRIMMED, axis=1)
    low, high = np.quantile([_from_line(each) for each in means], [0.025, 0.975], axis=0)
    tokens, steps = map(Interval, below(runs, arm, sizes), low.tolist(), high.tolist(), [len(runs)] * 2)
    return tokens, steps


def table(results: Path) -> str:
    """One row an arm: tokens at equal steps and steps at equal tokens, relative to the line of GRPO's sizes."""
    rows = []
    for task, sizes, arms in COMPARED:
        asked, curves = TASKS[task], counted(results, task)
        for arm in arms:
            costs = relative_costs(curves, [arm, *sizes], sizes[-1], asked.targets[-1])
            if len(costs) < 2:
                continue
            tokens, steps = intervals(costs, arm, sizes)
            rows.append(
                {
                    "task": f"{asked.short}, to {asked.targets[-1]:.0%}{asked.of}",
                    "arm": ARMS[arm].title,
                    "runs": str(len(costs)),
                    "sampled tokens at equal steps": _change(tokens),
                    "steps at equal tokens": _change(steps),
                }
            )
    return markdown.table(rows) or NONE_YET


def _change(found: Interval) -> str:
    estimate, low, high = (f"{100 * math.expm1(each):+.0f}" for each in (found.estimate, found.low, found.high))
    return f"{estimate} % [{low}, {high}]"
