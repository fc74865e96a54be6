"""Results with other learning rates and clip ranges, in worlds that nothing else is measured in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import markdown
from benchmarks.lab.arms import ARMS, TUNED, TUNING
from benchmarks.lab.curves import Curve, interquartile_mean


def table(curves: Sequence[Curve]) -> str:
    """Write a row per learning rate or clip range: accuracies of the runs in pilot worlds, on the way and at steps."""
    rows = []
    for arm in [each for name in TUNED for each in (name, *(arm for arm in TUNING if arm.startswith(f"{name}_")))]:
        own = [curve for curve in curves if curve.arm == arm]
        if own:
            row: dict[str, Any] = {"arm": ARMS[arm].title, "runs": len(own)}
            means = [curve.mean_until(curve.cost["step"][-1], "step") for curve in own]
            row["mean on the way"] = f"{interquartile_mean(means):.1%}"
            for step in (10, 20, 40):
                row[f"accuracy at step {step}"] = f"{interquartile_mean([curve.at_step(step) for curve in own]):.1%}"
            row["k tokens sampled"] = (
                f"{interquartile_mean([curve.cost['sampled_tokens'][-1] for curve in own]) / 1e3:.0f}"
            )
            rows.append(row)
    return markdown.table(rows)
