"""Interface of the laboratory's tasks, and the agent loop that plays them, as verl's `tool_agent` would."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from transformers import Qwen3ForCausalLM


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a conversation.

    Attributes:
        turns: turns of the model; the last one is not acted on.
        tokens: response tokens, observations included.
    """

    turns: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A finished conversation, with the names that verl's ``AgentLoopOutput`` has.

    Attributes:
        prompt_ids: what the model was asked.
        response_ids: its turns and the observations between them.
        response_mask: 1 for its turns' tokens.
        log_probs: of its turns' tokens under the policy that sampled them, nats; 0 for the others.
        reward_score: the outcome.
        extra_fields: nothing here.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    log_probs: list[float]
    reward_score: float
    extra_fields: dict[str, Any] = dataclasses.field(default_factory=dict)


class Partner(Protocol):
    """The other side of one conversation: a tool with its state, and the judge."""

    prompt: list[int]

    def answer(self, turn_ids: list[int]) -> Sequence[int] | None:
        """Ids of the observation that a turn is answered with; None where it ends the conversation."""

    def reward(self, response_ids: list[int]) -> float:
        """The outcome of the whole response."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """A question of a task.

    Attributes:
        source: group for which accuracy is reported.
        partner: makes the other side of a new conversation about it.
        answer: the gold answer; empty where the task has none.
    """

    source: str
    partner: Callable[[], Partner]
    answer: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """A task in one world.

    Attributes:
        train, held_out: its questions.
        limits: of a conversation.
        end: token that ends a turn.
        model: makes the warm-started model.
        tokenizer: the model's; ``None`` where episodes have no gold answer.
    """

    train: Sequence[Episode]
    held_out: Sequence[Episode]
    limits: Limits
    end: int
    model: Callable[[], Qwen3ForCausalLM]
    tokenizer: Any = None


async def converse(client: Any, partner: Partner, limits: Limits) -> Trajectory:
    """One conversation.

    Args:
        client: what the turns are asked from (``generate``).
        partner: answers them.
        limits: an observation that would reach the limit of tokens is left out, and ends the conversation.
    """
    response: list[int] = []
    mask: list[int] = []
    log_probs: list[float] = []
    for turn in range(1, limits.turns + 1):
        asked = partner.prompt + response
        sampling = {"max_tokens": limits.tokens - len(response)}
        answer = await client.generate("", prompt_ids=asked, sampling_params=sampling)
        sampled = answer.token_ids
        response += sampled
        mask += [1] * len(sampled)
        log_probs += answer.log_probs
        if len(response) >= limits.tokens or turn == limits.turns:
            break
        observed = partner.answer(sampled)
        if observed is None or len(response) + len(observed) >= limits.tokens:
            break
        response += observed
        mask += [0] * len(observed)
        log_probs += [0.0] * len(observed)
    return Trajectory(partner.prompt, response, mask, log_probs, partner.reward(response))
