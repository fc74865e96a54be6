"""Stretches of a trajectory's record: the parts in which the loop only appended to its context."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from verl_atpo.tree.recording import Generation, contexts_of


@dataclasses.dataclass
class Stretch:
    """A part of a trajectory in which the loop only appended, as one sequence of tokens.

    Attributes:
        turn: number of its first turn, from 1.
        prompt_tokens: length of the context of its first turn.
        token_ids: that context and everything after it, to the last sampled token.
        sampled: 1 for each of ``token_ids`` that was sampled in this stretch, else 0.
        log_probs: log-prob per token, nats, 0 where nothing was sampled; ``None`` if the engine returned none.
        starts: index of each turn's first token.
        turns: number of each turn in the trajectory, from 0.
    """

    turn: int
    prompt_tokens: int
    token_ids: list[int]
    sampled: list[int]
    log_probs: list[float] | None
    starts: list[int]
    turns: list[int] = dataclasses.field(default_factory=list)

    @classmethod
    def begin(cls, turn: int, prompt_ids: list[int]) -> Stretch:
        """Make a stretch whose first turn has not been sampled yet."""
        return cls(turn, len(prompt_ids), prompt_ids, [0] * len(prompt_ids), [0.0] * len(prompt_ids), [])

    def observe(self, dropped: int, observed_ids: list[int]) -> None:
        """Take ``dropped`` tokens away at the end, then add an observation."""
        for tokens in (self.token_ids, self.sampled, self.log_probs):
            if dropped and tokens:
                del tokens[-dropped:]
        self._add(observed_ids, 0, [0.0] * len(observed_ids))

    def sample(self, output: Any) -> None:
        """Add what the engine sampled."""
        log_probs = output.log_probs
        given = log_probs is not None and len(log_probs) == len(output.token_ids)
        self._add(output.token_ids, 1, log_probs if given else None)

    def _add(self, token_ids: Sequence[int], sampled: int, log_probs: Sequence[float] | None) -> None:
        self.token_ids += token_ids
        self.sampled += [sampled] * len(token_ids)
        if log_probs is None or self.log_probs is None:
            self.log_probs = None
        else:
            self.log_probs += log_probs


def stretches(generations: Sequence[Generation]) -> list[Stretch]:
    """Split a record where the loop replaced its context: where nothing of the turn before remains in it.

    A context that was added to twice belongs to the first addition's stretch; the second begins one.
    """
    found: list[Stretch] = []
    ends: dict[int, Stretch] = {}  # the stretch that a generation ends, by identity
    previous: Generation | None = None
    turn = 0
    for generation, context in zip(generations, contexts_of(generations), strict=True):
        before = previous if generation.before is None else generation.before
        current = None if before is None else ends.pop(id(before), None)
        continues = current is not None and not generation.observed_ids and not generation.dropped
        turn += not continues
        if current is None or (not continues and generation.dropped >= len(current.token_ids) - current.starts[-1]):
            current = Stretch.begin(turn, context)
            found.append(current)
        elif not continues:
            current.observe(generation.dropped, generation.observed_ids)
        if not continues:
            current.starts.append(len(current.token_ids))
            current.turns.append(turn - 1)
        current.sample(generation.output)
        ends[id(generation)] = current
        previous = generation
    return found
