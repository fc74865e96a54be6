"""The policy's own text of a trajectory, for reward functions under every sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl_atpo.search_qa.rewards.observations import Style, split_turns


def policy_text(solution_str: str, extra_info: Mapping[str, Any] | None) -> str:
    """Return the policy's own text, turns joined by newlines, without the observations of tools and environments.

    This package's sampler, for trees, chains and validation, passes the decoded sampled tokens
    (``extra_info["policy_text"]``), which is exact. Under verl's own sampler observations are cut out of the response
    by their tags: ``<tool_response>`` after a ``<tool_call>``, or ``<result>`` after a ``<search>``. Observations of
    another form stay in, and a policy that writes such tags itself can hide text of its own.

    Args:
        solution_str: decoded response, as verl hands it to a reward function.
        extra_info: as verl hands it to a reward function.
    """
    exact = (extra_info or {}).get("policy_text")
    return exact if isinstance(exact, str) else "\n".join(split_turns(solution_str, Style.ANY))
