"""Posterior means of contexts under a hierarchical Gaussian model of outcomes. Pure Python.

The model. U_k is the share of an outcome's variance that is left after k turns (1 at the start, falling), and
D_k = U_k - U_(k+1) is what the turn number k + 1 decides. The value of a context after k turns is normal around that
of the context before the turn, with variance D_(k-1); an outcome is normal around the value of the context that the
last turn was sampled in, with variance U_k. The value of the prompt is not known beforehand (a flat prior).

So estimates go up a tree by *precision*, the inverse of a variance: an outcome has 1 / U_k for the context of its turn,
a turn that others follow 1 / (D_k + 1 / the summed precision of these). A chain has the precision 1 / U_0 for its
prompt wherever it is looked at, so chains that share nothing weigh the same.

Turns with equal tokens in an equal context (copies) whose next contexts are equal too are n draws of one value: their D
is D / n, and what was sampled after any of them is pooled first.

Contexts are distinguished by all that came before (:func:`verl_atpo.tree.contexts.along_paths`): equal tokens that a
sub-agent or a compacted conversation reads after different turns are contexts of their own, related by those before.

Everything is done by passing messages up and down the tree of contexts, which is exact for this model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from verl_atpo.tree.contexts import Grouping, along_paths
from verl_atpo.tree.tree import ROOT, TurnTree

LEAST = 1e-6
"""Least share of variance that an outcome is taken to have: keeps precisions finite where nothing is undecided."""


class Estimate(NamedTuple):
    """Estimate of a value: its mean, and the inverse of its variance."""

    precision: float
    mean: float

    def after(self, variance: float, shift: float = 0.0) -> Estimate:
        """Return the estimate of a value that differs from it by ``shift`` and by noise of this variance."""
        return Estimate(1.0 / (variance + 1.0 / self.precision), self.mean + shift)


def pool(estimates: Iterable[Estimate]) -> Estimate | None:
    """Combine independent estimates of one value by precision; None where there are none."""
    known = list(estimates)
    if not known:
        return None
    precision = math.fsum(each.precision for each in known)
    return Estimate(precision, math.fsum(each.precision * each.mean for each in known) / precision)


def falling(undecided: Sequence[float]) -> list[float]:
    """Make U_0, U_1, ... valid for the model: 1 at first, never rising, never below :data:`LEAST`."""
    shares = [1.0]
    for share in undecided[1:]:
        shares.append(min(shares[-1], max(LEAST, share)))
    return shares


@dataclasses.dataclass(frozen=True)
class ContextTree:
    """The contexts of a tree of turns, and which turns lead from one to another.

    Attributes:
        tree: the turns.
        context: by node, the context it was sampled in; None for the root and for turns without a value.
        outcome: by node, return of the trajectory that a leaf ends; None elsewhere, and where it is not known.
        gain: by node, what its tools gave over what is usual at its depth; 0 without rewards of tools.
        turns: by context, the turns sampled in it.
        draws: by context but the prompt's, the turns that led to it.
        follows: by context, the contexts that its turns led to.
        depth: by context, number of turns before it.
    """

    tree: TurnTree
    context: Sequence[int | None]
    outcome: Sequence[float | None]
    gain: Sequence[float]
    turns: Mapping[int, list[int]]
    draws: Mapping[int, list[int]]
    follows: Mapping[int, list[int]]
    depth: Mapping[int, int]

    @classmethod
    def of(
        cls, tree: TurnTree, grouping: Grouping, outcome: Sequence[float | None], gain: Sequence[float]
    ) -> ContextTree:
        """Collect what messages are passed along."""
        grouping = along_paths(tree, grouping)
        known = [each is not None for each in outcome]
        for node in reversed(tree.nodes[1:]):
            known[node.parent] |= known[node.index]
        context = [group if known[index] else None for index, group in enumerate(grouping.context)]
        context[ROOT] = None
        turns, draws, follows = (dict[int, list[int]]() for _ in range(3))
        depth: dict[int, int] = {}
        for node in tree.nodes[1:]:
            here, before = context[node.index], context[node.parent]
            if here is None:
                continue
            turns.setdefault(here, []).append(node.index)
            if before is None:
                depth[here] = 0
                continue
            depth[here] = depth[before] + 1
            if node.parent not in draws.setdefault(here, []):
                draws[here].append(node.parent)
            if here not in follows.setdefault(before, []):
                follows[before].append(here)
        return cls(tree, context, outcome, gain, turns, draws, follows, depth)

    def after(self, nodes: Iterable[int], context: int) -> set[int]:
        """List the turns sampled in ``context`` right after any of ``nodes``."""
        children = (child for node in nodes for child in self.tree.nodes[node].children)
        return {child for child in children if self.context[child] == context}


class Messages:
    """Estimates of every context's value from any part of a tree.

    Args:
        contexts: the tree.
        undecided: U_0, U_1, ...; deeper contexts have the last of them.
        weights: by node, factors of the precision of turns in the baseline of others of their context; None for 1.
    """

    def __init__(
        self, contexts: ContextTree, undecided: Sequence[float], weights: Sequence[float] | None = None
    ) -> None:
        self._contexts = contexts
        self._weights = weights or [1.0] * len(contexts.context)
        self._undecided = falling(undecided)
        self._below: dict[int, Estimate] = {}
        self._above: dict[int, Estimate | None] = {}
        by_depth = sorted(contexts.turns, key=lambda context: contexts.depth[context])
        for context in reversed(by_depth):
            self._below[context] = _some(pool(self._parts(context)))
        for context in by_depth:
            self._above.setdefault(context, None)  # of the prompt's, from which all others follow
            for follower in contexts.follows.get(context, []):
                self._above[follower] = self._from_before(context, follower)

    @property
    def prompt(self) -> float | None:
        """Estimate the prompt's value from all trajectories; None where no outcome is known."""
        prompt = next((context for context, depth in self._contexts.depth.items() if depth == 0), None)
        return None if prompt is None else self._below[prompt].mean

    def undecided(self, depth: int) -> float:
        """Return U after ``depth`` turns."""
        return self._undecided[min(depth, len(self._undecided) - 1)]

    def decides(self, depth: int) -> float:
        """Return D of the turn that follows ``depth`` others."""
        return self.undecided(depth) - self.undecided(depth + 1)

    def without(self, node: int) -> Estimate | None:
        """Estimate a turn's context from the trajectories that do not go through the turn."""
        context = self._contexts.context[node]
        assert context is not None, "a turn with a value has a context"
        beside = self._parts(context, {node}, self._weights)
        return pool([*beside, *filter(None, [self._above[context]])])

    def value(self, node: int) -> Estimate:
        """Estimate a turn's context from the trajectories through the turn."""
        contexts = self._contexts
        context, outcome = contexts.context[node], contexts.outcome[node]
        assert context is not None, "a turn with a value has a context"
        depth = contexts.depth[context]
        if outcome is not None:
            return Estimate(1.0 / self.undecided(depth), outcome)
        children = contexts.tree.nodes[node].children
        below = _some(pool(self.value(child) for child in children if contexts.context[child] is not None))
        return below.after(self.decides(depth), contexts.gain[node])

    def _parts(
        self,
        context: int,
        left_out: Collection[int] = (),
        weights: Sequence[float] | None = None,
        beside: int | None = None,
    ) -> Iterator[Estimate]:
        """List independent estimates of a context's value from the turns sampled in it.

        Args:
            context: the context.
            left_out: turns whose trajectories do not count.
            weights: by node, factors of the precision of turns.
            beside: context that follows, and does not count.
        """
        contexts, depth = self._contexts, self._contexts.depth[context]
        for node in contexts.turns[context]:
            outcome = contexts.outcome[node]
            if outcome is not None and node not in left_out:
                yield Estimate(_mean(weights, [node]) / self.undecided(depth), outcome)
        for follower in contexts.follows.get(context, []):
            draws = contexts.draws[follower]
            left = [node for node in draws if node not in left_out]
            if not left or follower == beside:
                continue
            below = self._below[follower]
            if len(left) < len(draws):
                below = _some(pool(self._parts(follower, contexts.after(left_out, follower))))
            gain = math.fsum(contexts.gain[node] for node in left) / len(left)
            estimate = below.after(self.decides(depth) / len(left), gain)
            yield Estimate(_mean(weights, left) * estimate.precision, estimate.mean)

    def _from_before(self, context: int, follower: int) -> Estimate | None:
        """Estimate the value of ``follower`` from everything that was not sampled in it or later."""
        draws = self._contexts.draws[follower]
        elsewhere = pool([*self._parts(context, beside=follower), *filter(None, [self._above[context]])])
        return elsewhere and elsewhere.after(self.decides(self._contexts.depth[context]) / len(draws))


def _mean(weights: Sequence[float] | None, nodes: Collection[int]) -> float:
    return 1.0 if weights is None else math.fsum(weights[node] for node in nodes) / len(nodes)


def _some(estimate: Estimate | None) -> Estimate:
    assert estimate is not None, "a context has at least one turn with a value"
    return estimate
