"""Success of a search, for verl's `reward.custom_reward_function`; loaded by its path."""

from __future__ import annotations

from typing import Any

from verl_atpo.policy_text import policy_text


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **kwargs: Any
) -> dict[str, float]:
    """1.0 if a tool gave that reward; `asked` counts the policy's own actions, under any sampler."""
    found = float(max(extra_info.get("tool_rewards") or [0.0]))
    return {"score": found, "acc": found, "asked": float(policy_text(solution_str, extra_info).count("Action:"))}
