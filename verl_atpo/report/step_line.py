"""One training step, or one validation, as one readable line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl_atpo.report.metrics_file import accuracies, validation_means


def step_line(step: int, data: Mapping[str, Any], total: int | None = None, left_s: float | None = None) -> str:
    """Describe what was logged for a step.

    Args:
        step: number of the training step; 0 for a validation before training.
        data: its metrics.
        total: steps of the run, where that is known.
        left_s: seconds that the rest of the run will take, where that is known.

    Returns:
        For instance ``step 12/40  5.3 s, 2 min 28 s left  train reward 0.42  validation accuracy 61.3%``.
    """
    where = f"step {step}" if total is None else f"step {step}/{total}"
    return "  ".join([where, *filter(None, (_clock(data, left_s), *_learning(data), *_troubles(data)))])


def _clock(data: Mapping[str, Any], left_s: float | None) -> str:
    took = f"{data['timing_s/step']:.1f} s" if "timing_s/step" in data else ""
    left = f"{duration(left_s)} left" if left_s else ""
    return ", ".join(filter(None, (took, left)))


def _learning(data: Mapping[str, Any]) -> list[str]:
    parts = []
    if "critic/score/mean" in data:
        parts.append(f"train reward {data['critic/score/mean']:.2f}")
    if (text := validation(data)) is not None:
        parts.append(f"validation {text}")
    if "atpo/leaves_per_tree" in data:
        parts.append(f"{data['atpo/trees']:.0f} trees of {data['atpo/leaves_per_tree']:.0f}")
    return parts


def _troubles(data: Mapping[str, Any]) -> list[str]:
    parts = []
    if share := data.get("atpo/equal_rewards_share"):
        parts.append(f"{share:.0%} of the trees teach nothing")
    if errors := data.get("atpo/tool_errors"):
        parts.append(f"{errors:.0f} of {data.get('atpo/tool_calls', errors):.0f} tool calls failed")
    if failed := data.get("atpo/trees_failed"):
        parts.append(f"{failed:.0f} trees failed")
    if diverged := data.get("atpo/replays_diverged"):
        parts.append(f"{diverged:.0f} replays diverged")
    if useless := alarm(data):
        parts.append(useless)
    return parts


def alarm(data: Mapping[str, Any]) -> str | None:
    """Write the alarm for several useless steps in a row; None without an alarm."""
    useless = data.get("atpo/useless_steps") or 0
    return f"ALARM: {useless:.0f} steps in a row taught nothing" if useless >= 3 else None


def validation(data: Mapping[str, Any]) -> str | None:
    """Write the accuracy of a validation, or the mean of its rewards; None where nothing was validated."""
    if found := accuracies(data):
        return f"accuracy {sum(found.values()) / len(found):.1%}"
    rewards = [means["reward"] for means in validation_means(data).values() if "reward" in means]
    return f"reward {sum(rewards) / len(rewards):.2f}" if rewards else None


def duration(seconds: float) -> str:
    """Write a duration: ``45 s``, ``2 min 28 s``, ``3 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
