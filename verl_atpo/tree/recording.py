"""The record of one run of an agent loop: the engine's answers, the tool calls between them, and their turns.

Invariant: a generation holds only what it adds to an earlier one, so a record grows with the tokens and not with their
contexts. Putting the generations of a record together gives back exactly the ids the loop asked with
(:func:`contexts_of`), also where a loop takes tokens at the end of its context away again, replaces its context, or has
several conversations at a time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from verl_atpo.config import ConfigError
from verl_atpo.failure import EmptyTurnError, TrajectoryBug

OLDEST_VERSION, NEWEST_VERSION = "min_global_steps", "max_global_steps"
"""verl's extra fields of a generation and of a row: the training steps whose weights sampled it."""


@dataclasses.dataclass
class ToolCall:
    """One tool call: arguments, result or exception, and the state after it.

    Attributes:
        name: name of the tool.
        arguments: arguments that the model wrote.
        made: whether the tool was asked at all; a call over the limit is not.
        result: value that the loop received.
        error: exception that was raised instead.
        snapshot: snapshot of a forking tool's state after the call.
    """

    name: str
    arguments: dict[str, Any]
    made: bool = True
    result: Any = None
    error: Exception | None = None
    snapshot: Any = None

    @property
    def reward(self) -> float:
        """Reward that the tool gave for the call, the second item it returned; 0 where there is none, as in verl.

        Raises:
            TrajectoryBug: it is no finite number.
        """
        if not isinstance(self.result, tuple) or len(self.result) < 2 or self.result[1] is None:
            return 0.0
        try:
            reward = float(self.result[1])
        except (TypeError, ValueError):
            reward = math.nan
        if not math.isfinite(reward):
            raise TrajectoryBug(
                f"Tool {self.name!r} gave the reward {self.result[1]!r} for a call: expected a finite number or None. "
                "Remedy: fix the tool, or set algorithm.atpo.credit.tool_rewards=0."
            )
        return reward


@dataclasses.dataclass
class Generation:
    """Tokens that one request to the engine added to the context, and the tool calls that followed it.

    Attributes:
        dropped: tokens at the end of the context before that the loop took away; 0 for one that only appends. The
            context before is that of the generation listed before, or of ``before``, with its answer.
        observed_ids: tokens that the loop added after that: prompt, observation, or none (the turn continues).
        output: answer of the engine: ``token_ids``, ``log_probs`` in nats, ``extra_fields``.
        tool_calls: calls made before the loop asked again.
        media: digests of the images, videos and audio that the engine was asked with, in order (``tree/media.py``).
        started_s: time of the request, on the process's monotonic clock.
        ended_s: time of the answer.
        before: the generation whose context was changed or added to, where that is not the one listed before;
            :data:`BEGIN` where nothing sampled is in the context.
    """

    dropped: int
    observed_ids: list[int]
    output: Any
    tool_calls: list[ToolCall] = dataclasses.field(default_factory=list)
    media: tuple[str, ...] = ()
    started_s: float = dataclasses.field(default=0.0, compare=False)
    ended_s: float = dataclasses.field(default=0.0, compare=False)
    before: Generation | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def after(cls, context: list[int], prompt_ids: list[int], output: Any, media: tuple[str, ...] = ()) -> Generation:
        """Record the answer to ``prompt_ids``, asked when prompts and answers so far made ``context``."""
        common = common_length(context, prompt_ids)
        return cls(len(context) - common, prompt_ids[common:], output, media=media)

    def asked_with(self, context: list[int]) -> list[int]:
        """Return the ids that the loop asked with when prompts and answers so far made ``context``."""
        return context[: len(context) - self.dropped] + self.observed_ids


BEGIN = Generation(0, [], SimpleNamespace(token_ids=[], log_probs=[], extra_fields={}))
"""Predecessor of a generation with a new context: the first one, a sub-agent's, one after a compaction."""


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the leading tokens that two sequences have in common."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # one[:low] is common, one[:high] is not
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def contexts_of(generations: Sequence[Generation]) -> list[list[int]]:
    """Return the ids that the engine was asked with for each generation of a record."""
    contexts: list[list[int]] = []
    numbers: dict[int, int] = {}
    for number, generation in enumerate(generations):
        base = _base(number, generation, numbers)
        before = contexts[base] + generations[base].output.token_ids if base >= 0 else []
        contexts.append(generation.asked_with(before))
        numbers[id(generation)] = number
    return contexts


def context_lengths(generations: Sequence[Generation]) -> list[int]:
    """Count the context tokens of each generation."""
    lengths: list[int] = []
    numbers: dict[int, int] = {}
    for number, generation in enumerate(generations):
        base = _base(number, generation, numbers)
        before = lengths[base] + len(generations[base].output.token_ids) if base >= 0 else 0
        lengths.append(before + len(generation.observed_ids) - generation.dropped)
        numbers[id(generation)] = number
    return lengths


def _base(number: int, generation: Generation, numbers: Mapping[int, int]) -> int:
    """Return the index of the generation whose context one adds to; -1 if there is none."""
    if generation.before is None:
        return number - 1
    return -1 if generation.before is BEGIN else numbers[id(generation.before)]


@dataclasses.dataclass(frozen=True)
class Turn:
    """The tokens a policy samples between two observations: one generation, or several with nothing in between."""

    generations: tuple[Generation, ...]

    @property
    def observed_ids(self) -> list[int]:
        """The observation that opened the turn; of a first turn the prompt."""
        return self.generations[0].observed_ids

    @property
    def token_ids(self) -> list[int]:
        """The sampled tokens."""
        return [token for generation in self.generations for token in generation.output.token_ids]

    @property
    def log_probs(self) -> list[float] | None:
        """Log-probs of the sampled tokens, nats; ``None`` if the engine did not return one for each."""
        log_probs: list[float] = []
        for generation in self.generations:
            output = generation.output
            if output.log_probs is None or len(output.log_probs) != len(output.token_ids):
                return None
            log_probs += output.log_probs
        return log_probs

    @property
    def mean_nll(self) -> float:
        """Mean negative log-likelihood of the sampled tokens, nats/token: the entropy estimate of the paper.

        Raises:
            ConfigError: the engine returned no log-probs.
            EmptyTurnError: nothing was sampled.
        """
        log_probs = self.log_probs
        if log_probs is None:
            raise ConfigError(
                "The engine returned no log-prob per sampled token, which tree expansion needs: "
                "set actor_rollout_ref.rollout.calculate_log_probs=True."
            )
        if not log_probs:
            raise EmptyTurnError("The engine returned a turn without tokens (request aborted?).")
        return -sum(log_probs) / len(log_probs)

    @property
    def tool_reward(self) -> float:
        """Sum of the rewards that tools gave for the calls after it; raises what :attr:`ToolCall.reward` does."""
        return math.fsum(call.reward for generation in self.generations for call in generation.tool_calls)

    @property
    def started_s(self) -> float:
        """Time of its first request, on the process's monotonic clock."""
        return self.generations[0].started_s

    @property
    def ended_s(self) -> float:
        """Time of its last answer."""
        return self.generations[-1].ended_s

    @property
    def versions(self) -> tuple[int, int] | None:
        """Oldest and newest version of the weights that sampled it; None where the engine does not say.

        They differ where an asynchronous trainer stopped the generation for new weights and continued it with them.
        """
        return versions([self])


def versions(turns: Sequence[Turn]) -> tuple[int, int] | None:
    """Return the oldest and newest version of the weights that sampled the turns; None where it is not known."""
    fields = [generation.output.extra_fields for turn in turns for generation in turn.generations]
    oldest = [version for each in fields if (version := each.get(OLDEST_VERSION)) is not None]
    newest = [version for each in fields if (version := each.get(NEWEST_VERSION)) is not None]
    return (min(oldest), max(newest)) if oldest and newest else None


def version_fields(turns: Sequence[Turn]) -> dict[str, int]:
    """Make the extra fields in which verl's asynchronous trainers need the versions of a row; empty if not known."""
    found = versions(turns)
    return {} if found is None else dict(zip((OLDEST_VERSION, NEWEST_VERSION), found, strict=True))


def group_turns(generations: Sequence[Generation]) -> list[Turn]:
    """Join generations that no observation separates: the later prompt is the earlier one plus what it sampled."""
    groups: list[list[Generation]] = []
    latest: list[Generation] | None = None
    last: dict[int, list[Generation]] = {}
    for generation in generations:
        group = latest if generation.before is None else last.get(id(generation.before))
        if group is not None and not generation.observed_ids and not generation.dropped:
            group.append(generation)
        else:
            groups.append(group := [generation])
        latest = last[id(generation)] = group
    return [Turn(tuple(group)) for group in groups]
