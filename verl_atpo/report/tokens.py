"""Sampled tokens of a tree, compared with those of as many independent chains."""

from __future__ import annotations

import dataclasses
import math

from verl_atpo.tree.growth import GrownTree


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """Sampled tokens.

    Attributes:
        sampled: by the engine for the tree, those of failed attempts included.
        chains: trajectories times the mean tokens of the initial chains, which is what as many chains sample;
            ``None`` where no initial chain has ended.
    """

    sampled: int
    chains: float | None


def token_counts(grown: GrownTree) -> TokenCounts:
    """Count the sampled tokens of a tree."""
    lengths = [sum(len(turn.token_ids) for turn in chain.turns) for chain in grown.chains]
    mean = math.fsum(lengths) / len(lengths) if lengths else None
    sampled = sum(rollout.sampled_tokens for rollout in grown.rollouts)
    return TokenCounts(sampled, None if mean is None else len(grown.trajectories) * mean)
