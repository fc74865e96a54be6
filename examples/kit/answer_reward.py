"""Exact-match reward for verl's `reward.custom_reward_function`; self-contained, loaded by its path."""

from __future__ import annotations

import re
from typing import Any

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_OBSERVATION_OPEN, _OBSERVATION_CLOSE = "<tool_response>", "</tool_response>"


def normalise(text: str) -> str:
    """Lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).rstrip(".")


def final_answer(solution_str: str) -> str | None:
    """The answer given in the last turn, or None.

    Only what follows the last observation counts, so that an answer tag in retrieved text or in an
    earlier turn earns nothing. Exactly one answer is allowed, and no tool call next to it.
    """
    last_turn = solution_str.rpartition(_OBSERVATION_CLOSE)[2]
    if _OBSERVATION_OPEN in last_turn or "<tool_call>" in last_turn:
        return None
    answers = _ANSWER.findall(last_turn)
    return answers[0].strip() if len(answers) == 1 else None


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores one response.

    Args:
        data_source: `hopqa_<n>hop`; not needed for the score, part of verl's signature.
        solution_str: decoded response: all turns and observations.
        ground_truth: the name that is right.
        extra_info: the row's extra information, unused.
        **kwargs: whatever else verl passes, unused.

    Returns:
        `score` and `acc`, both 1.0 if right, else 0.0; `answered`, 1.0 if there is an answer at all.
    """
    answer = final_answer(solution_str)
    right = float(answer is not None and normalise(answer) == normalise(ground_truth))
    return {"score": right, "acc": right, "answered": float(answer is not None)}
