"""Information of an expansion per sampled token, relative to a fresh chain (metric ``branch_worth``).

An expansion informs as much as outcomes vary after its context, a chain as much as they vary after the prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from verl_atpo.rollout.grown import GrownTree


@dataclasses.dataclass(frozen=True)
class BranchStats:
    """Variance and cost of one expansion.

    Attributes:
        variance: of the outcomes of the context's two trajectories, the one whose turn was selected and the expansion.
        tokens: sampled for the expansion, without shared ones.
    """

    variance: float
    tokens: int


def branch_stats(grown: GrownTree) -> list[BranchStats]:
    """Collect the statistics of every expansion whose selected turn is of a trajectory that has ended."""
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
    """Estimate the variance of the outcomes' distribution without bias; ``None`` for fewer than two outcomes."""
    return float(np.var(outcomes, ddof=1)) if len(outcomes) > 1 else None


def branch_worth(branches: Sequence[BranchStats], of_chains: Sequence[float], a_chain: float) -> float | None:
    """Compute the ratio of variances per token: above 1 expansions inform more than as many tokens of chains would.

    Args:
        branches: expansions of some trees.
        of_chains: variance of the outcomes of each tree's initial chains.
        a_chain: mean tokens of a chain.

    Returns:
        ``None`` where there are no expansions, or no tree whose chains differ.
    """
    if not branches or not any(of_chains):
        return None
    undecided = np.mean([branch.variance for branch in branches]) / np.mean(of_chains)
    return float(undecided / np.mean([branch.tokens for branch in branches]) * a_chain)
