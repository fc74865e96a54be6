"""Turns credited with their value minus one baseline that is shrunk from their context to the prompt. Pure Python.

The value of a turn is the precision-weighted mean of the outcomes below it. Its baseline is the posterior mean of the
context it was sampled in, given all trajectories that do not go through this very turn: those that sampled a turn in an
equal context say the most, the others what they say of the contexts before. :mod:`verl_atpo.method.posterior` has the
model. No turn is in its own baseline, so no baseline bends the gradient.

- Chains that share nothing: outcome minus the mean outcome of the other chains, which is RLOO (arXiv 2402.14740).
- Many turns sampled in one context: value minus the mean of the others in it.
- Nothing but the trajectories through a turn: there is nothing to compare it with, and its advantage is 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from verl_atpo.method.posterior import ContextTree, Messages
from verl_atpo.tree.contexts import Grouping
from verl_atpo.tree.tree import TurnTree


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """Values and baselines of a tree's turns, by node; None for the root, and for turns without a known outcome.

    Attributes:
        values: of the turns.
        baselines: of the turns; None also where no other trajectory is there.
        peers: turns that other trajectories sampled in an equal context.
    """

    values: list[float | None]
    baselines: list[float | None]
    peers: list[int]

    @property
    def advantages(self) -> list[float | None]:
        """Value minus baseline, on the scale of the outcome; 0 where there is nothing to compare with."""
        pairs = zip(self.values, self.baselines, strict=True)
        return [None if value is None else 0.0 if base is None else value - base for value, base in pairs]


def shrunk_credit(
    tree: TurnTree,
    grouping: Grouping,
    undecided: Sequence[float],
    outcome: Sequence[float | None],
    gain: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> Shrunk:
    """Values and baselines of all turns of a tree.

    Args:
        tree: the tree.
        grouping: which turns were sampled in equal contexts; not by states, whose paths differ.
        undecided: U_0, U_1, ...: share of the outcome's variance that is left after 0, 1, ... turns.
        outcome: by node, return of the trajectory that a leaf ends; None elsewhere, and where it is not known.
        gain: by node, what the turn's tools gave over what is usual at its depth; None for nothing.
        weights: by node, how much a turn counts in the baselines of others of its context, 1 being usual. With squared
            scores the mean of many is the baseline with the least variance (Greensmith, Bartlett and Baxter, 2004).
    """
    contexts = ContextTree.of(tree, grouping, outcome, gain or [0.0] * len(tree.nodes))
    messages = Messages(contexts, undecided, weights)
    values, baselines, peers = list[float | None]([None]), list[float | None]([None]), [0]
    for node in range(1, len(tree.nodes)):
        context = contexts.context[node]
        if context is None:
            values.append(None)
            baselines.append(None)
            peers.append(0)
            continue
        without = messages.without(node)
        values.append(messages.value(node).mean)
        baselines.append(None if without is None else without.mean)
        peers.append(len(contexts.turns[context]) - 1)
    return Shrunk(values, baselines, peers)
