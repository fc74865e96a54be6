"""The trainer's readable log: opening lines, a line per step, closing lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verl_atpo.report.step_line import alarm, duration, step_line, validation
from verl_atpo.report.tracking import STEP_METRIC

logger = logging.getLogger(__name__)

LATEST = 5
"""Number of latest steps from which the remaining time is estimated."""

TROUBLES = {
    "atpo/trees_failed": "trees failed",
    "atpo/tool_errors": "tool calls failed",
    "atpo/replays_diverged": "replays diverged",
}
"""Metrics that are added up over the run, with their names in the closing lines."""


class Console:
    """Follows what is logged.

    Args:
        total: gives the steps of the run, None where they are not known.
        opening: lines before the first step.
        closing: lines at the end, on where to find things and what to do next.
    """

    def __init__(self, total: Callable[[], int | None], opening: Sequence[str], closing: Sequence[str]) -> None:
        self._total, self._opening, self._closing = total, opening, closing
        self._began = time.monotonic()
        self._ends: list[float] = []
        self._first: Mapping[str, Any] | None = None
        self._validations: list[tuple[int, str]] = []
        self._troubles = dict.fromkeys(TROUBLES, 0.0)
        self._alarms = 0

    def open(self) -> None:
        """Log the opening lines, once, and start the clock of the first step."""
        if self._opening:
            logger.info("%s", "\n".join(self._opening))
            self._opening = ()
            self._ends = [time.monotonic()]

    def follow(self, step: int, data: Mapping[str, Any]) -> None:
        """Log a line for what was logged, and the closing lines after the last step."""
        if (text := validation(data)) is not None:
            self._validations.append((step, text))
        if STEP_METRIC not in data:
            if text is not None:
                logger.info("step %d  validation %s (before training)", step, text)
            return
        self._ends.append(time.monotonic())
        self._count(data)
        total = self._total()
        logger.info("%s", step_line(step, data, total, self._left_s(step, total)))
        if total is not None and step >= total:
            logger.info("%s", "\n".join(self._summary(step, data)))

    def _count(self, data: Mapping[str, Any]) -> None:
        self._first = self._first or data
        for name in self._troubles:
            self._troubles[name] += data.get(name) or 0
        self._alarms += alarm(data) is not None

    def _left_s(self, step: int, total: int | None) -> float | None:
        """Estimate the remaining seconds from the mean of the latest steps."""
        ends = self._ends[-LATEST - 1 :]
        if total is None or len(ends) < 2:
            return None
        return (total - step) * (ends[-1] - ends[0]) / (len(ends) - 1)

    def _summary(self, step: int, data: Mapping[str, Any]) -> list[str]:
        first = (self._first or {}).get("critic/score/mean")
        last = data.get("critic/score/mean")
        rewards = "" if first is None or last is None else f"training reward {first:.2f} at first, {last:.2f} at last"
        checked = "no validation"
        if self._validations:
            (at, before), (_, after) = self._validations[0], self._validations[-1]
            checked = f"validation {before} at step {at}, {after} at the end"
        troubles = [f"{self._troubles[key]:.0f} {name}" for key, name in TROUBLES.items() if self._troubles[key]]
        alarms = f"{self._alarms} steps with an alarm" if self._alarms else ""
        return [
            f"finished: step {step} after {duration(time.monotonic() - self._began)}",
            f"  learned: {'; '.join(filter(None, (checked, rewards)))}",
            f"  trouble: {', '.join(filter(None, (alarms, *troubles))) or 'none'}",
            *(f"  {line}" for line in self._closing),
        ]
