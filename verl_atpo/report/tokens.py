"""Sampled tokens of a tree, compared with those of as many independent chains."""

from __future__ import annotations

import dataclasses
import math

from verl_atpo.rollout.grown import GrownTree


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """Sampled tokens.

    Attributes:
        sampled: by the engine for the tree, those of failed tries included.
        chains: trajectories times the mean tokens of the initial chains, which is what as many chains sample;
            ``None`` where no initial chain has ended.
    """

    sampled: int
    chains: float | None


def token_counts(grown: GrownTree) -> TokenCounts:
    """Count the sampled tokens of a tree."""
    chains = [
        sum(len(turn.token_ids) for turn in limb.branch.turns)
        for limb in grown.limbs
        if limb.pick is None and limb.branch is not None
    ]
    mean = math.fsum(chains) / len(chains) if chains else None
    return TokenCounts(
        sum(limb.sampled_tokens for limb in grown.limbs), None if mean is None else len(grown.branches) * mean
    )
