"""From the engine's generations to the turns of the method, and their places in a response."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby, pairwise
from operator import itemgetter

from transformers import PreTrainedTokenizerBase
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import ConfigError
from verl_atpo.replay.client import Generation

OLDEST_VERSION, NEWEST_VERSION = "min_global_steps", "max_global_steps"
"""verl's extra fields of a generation and of a row: the training steps whose weights sampled it."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """The tokens a policy samples between two observations: one generation, or several with nothing in between."""

    generations: tuple[Generation, ...]

    @property
    def prompt_ids(self) -> list[int]:
        """The context in which the turn was sampled."""
        return self.generations[0].prompt_ids

    @property
    def token_ids(self) -> list[int]:
        """The sampled tokens."""
        return [token for generation in self.generations for token in generation.output.token_ids]

    @property
    def mean_nll(self) -> float:
        """Mean negative log-likelihood of the sampled tokens, nats/token: the entropy estimate of the paper.

        Raises:
            ConfigError: the engine returned no log-probs.
            EmptyTurnError: nothing was sampled.
        """
        log_probs: list[float] = []
        for generation in self.generations:
            output = generation.output
            if output.log_probs is None or len(output.log_probs) != len(output.token_ids):
                raise ConfigError(
                    "The engine returned no log-prob per sampled token, which tree expansion needs: "
                    "set actor_rollout_ref.rollout.calculate_log_probs=True."
                )
            log_probs += output.log_probs
        if not log_probs:
            raise EmptyTurnError("The engine returned a turn without tokens (request aborted?).")
        return -sum(log_probs) / len(log_probs)

    @property
    def versions(self) -> tuple[int, int] | None:
        """Oldest and newest version of the weights that sampled it; None where the engine does not say.

        They differ where an asynchronous trainer stopped the generation for new weights and let it go on with them.
        """
        return versions([self])


def versions(turns: Sequence[Turn]) -> tuple[int, int] | None:
    """Oldest and newest version of the weights that sampled the turns; None where the engine does not say."""
    fields = [generation.output.extra_fields for turn in turns for generation in turn.generations]
    oldest = [version for each in fields if (version := each.get(OLDEST_VERSION)) is not None]
    newest = [version for each in fields if (version := each.get(NEWEST_VERSION)) is not None]
    return (min(oldest), max(newest)) if oldest and newest else None


class EmptyTurnError(RuntimeError):
    """A generation came back empty; the branch is grown again."""


def group_turns(generations: Sequence[Generation]) -> list[Turn]:
    """Join generations that no observation separates: the later prompt is the earlier one plus what it sampled."""
    groups: list[list[Generation]] = []
    for generation in generations:
        if groups and _continues(groups[-1][-1], generation):
            groups[-1].append(generation)
        else:
            groups.append([generation])
    return [Turn(tuple(group)) for group in groups]


def _continues(earlier: Generation, later: Generation) -> bool:
    joined = len(earlier.prompt_ids) + len(earlier.output.token_ids)
    return len(later.prompt_ids) == joined and later.prompt_ids == earlier.prompt_ids + earlier.output.token_ids


def turn_starts(turns: Sequence[Turn], output: AgentLoopOutput) -> list[int]:
    """Where each turn's first token stands in the response: ``len(prompt_k) - len(prompt_1)``.

    A start at or behind ``len(output.response_ids)`` means that the response limit cut the turn off.

    Raises:
        ContextRewrittenError: the response does not hold the turns at these places, because the loop changed its
            context between turns (summaries, dropped messages) instead of appending to it.
    """
    starts = [len(turn.prompt_ids) - len(output.prompt_ids) for turn in turns]
    length = len(output.response_ids)
    in_order = all(earlier + 1 < later for earlier, later in pairwise(starts))
    sampled = all(
        output.response_mask[start] and output.response_ids[start] == turn.token_ids[0]
        for start, turn in zip(starts, turns, strict=True)
        if start < length
    )
    if not starts or starts[0] != 0 or not in_order or not sampled:
        raise ContextRewrittenError(
            "The response of the agent loop does not hold its turns where they were sampled (expected them at "
            f"{starts} of {length} tokens). Tree rollouts need a loop that only appends to its context; use "
            "+atpo=chain for one that rewrites it."
        )
    return starts


def policy_text(output: AgentLoopOutput, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the policy itself wrote: the sampled tokens decoded, special ones left out, turns joined by newlines."""
    marked = zip(output.response_ids, output.response_mask, strict=True)
    turns = [[token for token, _ in run] for sampled, run in groupby(marked, key=itemgetter(1)) if sampled]
    return "\n".join(str(tokenizer.decode(turn, skip_special_tokens=True)) for turn in turns)


class ContextRewrittenError(RuntimeError):
    """The agent loop's context is not append-only, so turns have no place in the response."""
