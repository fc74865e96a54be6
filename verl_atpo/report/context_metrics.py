"""Metrics of contexts: how often they repeat, and how much is undecided after each turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from verl_atpo.config import Contexts
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree


@dataclasses.dataclass(frozen=True)
class ContextStats:
    """Contexts of one tree.

    Attributes:
        later: turns that are not the first of their trajectory.
        repeated: later turns in whose context, token by token, a turn after another node was sampled: by another
            chain with the same tokens so far, so not by an expansion.
        undecided: share of the outcome's variance that earlier trees had left after 0, 1, ... turns.
    """

    later: int
    repeated: int
    undecided: Sequence[float]


def context_stats(tree: TurnTree) -> ContextStats:
    """Count the repeated contexts of a tree."""
    later = repeated = 0
    for siblings in group_contexts(tree, Contexts.MERGED).siblings:
        parents = {tree.nodes[node].parent for node in siblings}
        if parents != {ROOT}:
            later += len(siblings)
            repeated += len(siblings) if len(parents) > 1 else 0
    return ContextStats(later, repeated, tree.undecided)


def context_metrics(trees: Sequence[ContextStats]) -> dict[str, float]:
    """Make ``context_repeats`` of all trees, and ``undecided/k`` averaged over those that have k."""
    later = sum(tree.later for tree in trees)
    metrics = {"context_repeats": sum(tree.repeated for tree in trees) / later} if later else {}
    for turns in range(1, max((len(tree.undecided) for tree in trees), default=0)):
        known = [tree.undecided[turns] for tree in trees if len(tree.undecided) > turns]
        metrics[f"undecided/{turns}"] = sum(known) / len(known)
    return metrics
