"""Presets of the paper's setting: the search agent, and the scoring of its answers.

| preset | what it is |
|---|---|
| ``+agent=search`` | verl's tool agent with the ``search`` tool, by function calling (hermes format) |
| ``+agent=search_tags`` | the same tool in the paper's tag style: ``<search>`` answered by ``<result>`` |
| ``+score=qa_paper`` | training: -1 for a malformed response, else exact match; validation: exact match and F1 |
| ``+score=qa_em``, ``qa_f1`` | exact match, or F1, of any answer |

The retriever's address is the environment variable ``SEARCH_URL`` (default ``http://127.0.0.1:8000``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

HERE = Path(__file__).parent
TAG_LOOP = "tag_agent"
RESOLVER = "atpo.answer_style"
FORMAT = "${actor_rollout_ref.rollout.multi_turn.format}"
STYLES = {"atpo_tags": "tags", "hermes": "tools"}
"""Format of the agent -> style of calls that the reward expects; "any" for other formats."""


def _agent(loop: str, format: str, **agent: str) -> dict[str, Any]:
    multi_turn = {
        "enable": True,
        "format": format,
        "tool_config_path": str(HERE / "search.yaml"),
        # Characters; verl's default of 256 cuts off most of three passages. algorithm.atpo.tools bounds tokens.
        "max_tool_response_length": 16384,
    }
    return {
        "actor_rollout_ref": {"rollout": {"agent": {"default_agent_loop": loop, **agent}, "multi_turn": multi_turn}}
    }


def _score(metric: str, malformed_score: float | None) -> dict[str, Any]:
    settings = {"metric": metric, "malformed_score": malformed_score, "style": f"${{{RESOLVER}:{FORMAT}}}"}
    function = {"path": "pkg://verl_atpo.search_qa.rewards.qa", "name": "compute_score", "reward_kwargs": settings}
    return {"reward": {"custom_reward_function": function}}


def register_resolver() -> None:
    """Register the interpolation of the ``score`` presets with OmegaConf; may be called again."""
    OmegaConf.register_new_resolver(RESOLVER, lambda format: STYLES.get(format, "any"), replace=True)


AGENT_PRESETS: dict[str, dict[str, Any]] = {
    "search": _agent("tool_agent", "hermes"),
    "search_tags": _agent(TAG_LOOP, "atpo_tags", agent_loop_config_path=str(HERE / "tag_agent.yaml")),
}

SCORE_PRESETS: dict[str, dict[str, Any]] = {
    "qa_paper": _score(metric="em", malformed_score=-1.0),
    "qa_em": _score(metric="em", malformed_score=None),
    "qa_f1": _score(metric="f1", malformed_score=None),
}
