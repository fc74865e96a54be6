"""The rows of a trajectory at the endpoint: one per stretch of calls that only append."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics

from verl_atpo.gateway.conversation import Call, stretches


def row_outputs(
    calls: Sequence[Call], metrics: AgentLoopMetrics, extra_fields: dict[str, Any]
) -> list[AgentLoopOutput]:
    """Make the rows of a trajectory, that of the last call at the end.

    Args:
        calls: calls of the trajectory, in the order in which they were answered.
        metrics: verl's, of the whole trajectory.
        extra_fields: extra fields of every row.
    """
    return [_row(stretch, metrics, extra_fields) for stretch in stretches(calls)]


def _row(stretch: Sequence[Call], metrics: AgentLoopMetrics, extra_fields: dict[str, Any]) -> AgentLoopOutput:
    """Make the row of a stretch: the first call's context is the prompt, the mask is 1 on sampled ids, else 0."""
    prompt = stretch[0].context
    ids, mask, log_probs = list(prompt), list[int](), list[float]()
    for call in stretch:
        seen = len(call.context) - len(ids)
        ids = call.tokens
        mask += [0] * seen + [1] * len(call.sampled)
        log_probs += [0.0] * seen + (call.log_probs or [])
    complete = len(log_probs) == len(mask)
    oldest = [call.versions[0] for call in stretch if call.versions[0] is not None]
    newest = [call.versions[1] for call in stretch if call.versions[1] is not None]
    return AgentLoopOutput(
        prompt_ids=prompt,
        response_ids=ids[len(prompt) :],
        response_mask=mask,
        response_logprobs=log_probs if complete else None,
        num_turns=2 * len(stretch),
        metrics=metrics,
        extra_fields={
            "turn_scores": [],
            "tool_rewards": [],
            "min_global_steps": min(oldest, default=None),
            "max_global_steps": max(newest, default=None),
            **extra_fields,
        },
    )
