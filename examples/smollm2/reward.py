"""Exact-number reward for verl's `reward.custom_reward_function`; self-contained, loaded by its path."""

from __future__ import annotations

import re
from typing import Any

_ANSWER = re.compile(r"The answer is (-?\d[\d,]*(?:\.\d+)?)")
_OBSERVATION_OPEN, _OBSERVATION_CLOSE = "<result>", "</result>"


def final_answer(solution_str: str) -> str | None:
    """The number in "The answer is 350." of the last turn, commas left out, or None.

    Only what follows the last observation counts. Exactly one answer is allowed, and no call of the tool next to it.
    """
    last_turn = solution_str.rpartition(_OBSERVATION_CLOSE)[2]
    if _OBSERVATION_OPEN in last_turn or "<calc>" in last_turn:
        return None
    answers = _ANSWER.findall(last_turn)
    return answers[0].replace(",", "") if len(answers) == 1 else None


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores one response.

    Args:
        data_source: `smollm2_<n>step`; not needed for the score, part of verl's signature.
        solution_str: decoded response: all turns and observations.
        ground_truth: the number that is right, a whole one.
        extra_info: the row's extra information, unused.
        **kwargs: whatever else verl passes, unused.

    Returns:
        `score` and `acc`, both 1.0 if right, else 0.0; `answered`, 1.0 if there is an answer at all.
    """
    answer = final_answer(solution_str)
    right = float(answer == ground_truth)
    return {"score": right, "acc": right, "answered": float(answer is not None)}
