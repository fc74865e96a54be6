"""Numbers that an agent loop reports of its trajectories, as metrics of a training step.

A loop puts them in the extra field ``loop_metrics`` of its last output, by name; the step logs the mean over the
trajectories that report the name.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LOOP_METRICS = "loop_metrics"


def reported_numbers(output: Any) -> dict[str, float]:
    """Read what a loop reports with an output; anything but finite numbers is left out."""
    fields = getattr(output, "extra_fields", None) or {}
    reported = fields.get(LOOP_METRICS)
    if not isinstance(reported, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in reported.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def loop_metrics(trajectories: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each number over the trajectories that report it."""
    names = sorted({name for reported in trajectories for name in reported})
    return {name: statistics.fmean(each[name] for each in trajectories if name in each) for name in names}
