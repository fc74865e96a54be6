"""Reward 1 if the checks pass with the files that the agent leaves; for verl's `reward.custom_reward_function`."""

from __future__ import annotations

import json
from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **kwargs: Any
) -> dict[str, float]:
    """1.0 if every file is as the checks want it, and nothing else was changed.

    Args:
        data_source: `black_box_<faults>`; not needed, part of verl's signature.
        solution_str: decoded response; the reward does not look at it.
        ground_truth: JSON of file to text.
        extra_info: the row's and the agent's; `agent_result` is what the agent returned.
        **kwargs: further arguments of verl's, unused.
    """
    left = extra_info.get("agent_result") or {}
    passed = float(left.get("files") == json.loads(ground_truth))
    return {"score": passed, "acc": passed, "calls": float(extra_info.get("agent_calls") or 0)}
