"""What a branch's tokens tell of outcomes, over what a fresh chain's do.

A branch can tell as much as outcomes vary from its context on, a chain as much as they vary from the prompt on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from verl_atpo.rollout.grown import GrownTree


@dataclasses.dataclass(frozen=True)
class BranchStats:
    """What a branch tells that its context does not say yet, and what it costs.

    Attributes:
        variance: of the outcomes of the context's two trajectories, the one whose turn was picked and the branch.
        tokens: sampled for the branch, shared ones left out.
    """

    variance: float
    tokens: int


def branch_stats(grown: GrownTree) -> list[BranchStats]:
    """Of every branch from a re-sampled turn whose first sampler has ended."""
    found = []
    for limb in grown.limbs:
        if limb.pick is None or limb.branch is None or limb.resampled is None:
            continue
        first = grown.limbs[grown.tree.nodes[limb.pick.node].branch].branch
        if first is not None:
            own = limb.branch.turns[grown.shared_turns(limb) :]
            spread = float(np.var([first.reward, limb.branch.reward], ddof=1))
            found.append(BranchStats(spread, sum(len(turn.token_ids) for turn in own)))
    return found


def variance(outcomes: Sequence[float]) -> float | None:
    """Of the distribution that they were drawn from, without bias."""
    return float(np.var(outcomes, ddof=1)) if len(outcomes) > 1 else None


def branch_worth(branches: Sequence[BranchStats], of_chains: Sequence[float], a_chain: float) -> float | None:
    """Above 1 branches tell more for their tokens than further chains would, below 1 less.

    Args:
        branches: of some trees.
        of_chains: variance of the outcomes of each tree's initial chains.
        a_chain: mean tokens of a chain.

    Returns:
        ``None`` where there are no branches, or no tree whose chains differ.
    """
    if not branches or not any(of_chains):
        return None
    undecided = np.mean([branch.variance for branch in branches]) / np.mean(of_chains)
    return float(undecided / np.mean([branch.tokens for branch in branches]) * a_chain)
