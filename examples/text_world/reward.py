"""Success of a game, for verl's `reward.custom_reward_function`; self-contained, loaded by its path."""

from __future__ import annotations

from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **kwargs: Any
) -> dict[str, float]:
    """Scores one trajectory by what the tool said of its own state, not by its text.

    verl's tool agent keeps the reward that each tool call returned and hands the list to this function as
    ``extra_info["tool_rewards"]``. The world's is 1.0 once the goal is reached. The transcript plays no part: a model
    that writes "Goal reached." or whole observations of its own gains nothing by it.

    Args:
        data_source: `text_world_<n>rooms`, part of verl's signature.
        solution_str: decoded response, unused.
        ground_truth: unused, there is none.
        extra_info: the row's extra information and what the agent loop added.
        **kwargs: whatever else verl passes, unused.

    Returns:
        `score` and `acc`, both 1.0 if the goal was reached, else 0.0; `actions`, the number of calls made.

    Raises:
        KeyError: the agent loop hands no tool rewards over.
    """
    if "tool_rewards" not in extra_info:
        raise KeyError(
            f"got extra_info with {sorted(extra_info)}, expected tool_rewards; use the agent loop `tool_agent`, which "
            "keeps the rewards that tools return"
        )
    rewards = extra_info["tool_rewards"]
    solved = float(max(rewards, default=0.0))
    return {"score": solved, "acc": solved, "actions": float(len(rewards))}
