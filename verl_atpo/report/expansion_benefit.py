"""Information of an expansion per sampled token, relative to a fresh chain (metric ``branch_worth``).

An expansion informs as much as outcomes vary after its context, a chain as much as they vary after the prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from verl_atpo.tree.growth import GrownTree


@dataclasses.dataclass(frozen=True)
class ExpansionStats:
    """Variance and cost of one expansion.

    Attributes:
        variance: variance of two outcomes: of the trajectory whose turn was selected, and of the expansion.
        tokens: sampled for the expansion, without shared ones.
    """

    variance: float
    tokens: int


def expansion_stats(grown: GrownTree) -> list[ExpansionStats]:
    """Collect the statistics of every expansion whose selected turn is of a trajectory that has ended."""
    found = []
    for rollout in grown.rollouts:
        if rollout.selection is None or rollout.trajectory is None or rollout.resampled is None:
            continue
        first = grown.rollouts[grown.tree.nodes[rollout.selection.node].sampled_by].trajectory
        if first is not None:
            own = rollout.trajectory.turns[grown.shared_turns(rollout) :]
            spread = float(np.var([first.reward, rollout.trajectory.reward], ddof=1))
            found.append(ExpansionStats(spread, sum(len(turn.token_ids) for turn in own)))
    return found


def variance(outcomes: Sequence[float]) -> float | None:
    """Estimate the variance of the outcomes' distribution without bias; ``None`` for fewer than two outcomes."""
    return float(np.var(outcomes, ddof=1)) if len(outcomes) > 1 else None


def expansion_benefit(expansions: Sequence[ExpansionStats], of_chains: Sequence[float], a_chain: float) -> float | None:
    """Compute the ratio of variances per token: above 1 expansions inform more than as many tokens of chains would.

    Args:
        expansions: expansions of some trees.
        of_chains: variance of the outcomes of each tree's initial chains.
        a_chain: mean tokens of a chain.

    Returns:
        ``None`` where there are no expansions, or no tree whose chains differ.
    """
    if not expansions or not any(of_chains):
        return None
    undecided = np.mean([each.variance for each in expansions]) / np.mean(of_chains)
    return float(undecided / np.mean([each.tokens for each in expansions]) * a_chain)
