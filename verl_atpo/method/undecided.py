"""Running estimate of the outcome's undecided variance after each turn. Pure Python.

U_k is the variance of outcomes that trajectories sampled from one context after k turns have, relative to that of
trajectories sampled from the prompt. Trees measure it: the turns that were sampled in one context are independent
draws, so half of the mean squared difference between the outcomes below two of them estimates the variance there
without bias. Both variances are taken from the same trees, each weighing as much as its contexts of that depth have
degrees of freedom.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from verl_atpo.config import Contexts
from verl_atpo.method.credit import leaf_returns
from verl_atpo.tree.contexts import Grouping, group_contexts
from verl_atpo.tree.tree import TurnTree

LEAST = 0.01
"""Least share that a turn is taken to leave undecided where it was not measured."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Spread of the outcomes from contexts of one depth in one tree.

    Attributes:
        freedom: turns sampled in these contexts minus contexts with a turn, so independent differences.
        variance: variance of outcomes from one of them, averaged by freedom.
    """

    freedom: int
    variance: float


def spreads(tree: TurnTree, grouping: Grouping, outcome: Sequence[float | None]) -> list[Spread]:
    """Measure the spread of outcomes from the contexts after 0, 1, 2, ... turns.

    Args:
        tree: the tree.
        grouping: groups of turns that were sampled in equal contexts.
        outcome: by node, return of the trajectory that a leaf ends; None elsewhere, and where it is not known.
    """
    count, total, squares = _sums(tree, outcome)
    freedom, weighted = list[int](), list[float]()
    for siblings in grouping.siblings:
        turns = [node for node in siblings if count[node]]
        depth = len(tree.path(siblings[0])) - 1
        while len(freedom) <= depth:
            freedom.append(0)
            weighted.append(0.0)
        if len(turns) > 1:
            means = [total[node] / count[node] for node in turns]
            n, of_squares = len(turns), math.fsum(squares[node] / count[node] for node in turns)
            crossed = math.fsum(means) ** 2 - math.fsum(mean**2 for mean in means)
            variance = max(0.0, of_squares / n - crossed / (n * (n - 1)))
            freedom[depth] += n - 1
            weighted[depth] += (n - 1) * variance
    return [Spread(n, total / n if n else 0.0) for n, total in zip(freedom, weighted, strict=True)]


def _sums(tree: TurnTree, outcome: Sequence[float | None]) -> tuple[list[int], list[float], list[float]]:
    """Number, sum and sum of squares of the known outcomes below every node."""
    count = [int(each is not None) for each in outcome]
    total = [each or 0.0 for each in outcome]
    squares = [each**2 for each in total]
    for node in reversed(tree.nodes[1:]):
        count[node.parent] += count[node.index]
        total[node.parent] += total[node.index]
        squares[node.parent] += squares[node.index]
    return count, total, squares


class Undecided:
    """Shares of the outcome's variance that are left after 0, 1, 2, ... turns, over the trees of recent steps.

    Where few trees were measured so far, every turn is taken to decide the same share of the rest, so that U_k falls
    as r ** k. This r is fitted to what was measured, and to 1 - 1 / turns (the mean number of turns of a trajectory).

    Args:
        prior: weight of that assumption, in degrees of freedom at every depth.
        memory: trees after which a tree weighs 1/e of the newest one.
    """

    def __init__(self, prior: float = 16.0, memory: float = 512.0) -> None:
        self._prior, self._decay = prior, math.exp(-1.0 / memory)
        self._here: list[float] = []
        self._prompt: list[float] = []
        self._trees = self._turns = self._scale = 0.0

    def add(self, tree: TurnTree, tool_rewards: float = 0.0, contexts: Contexts = Contexts.MERGED) -> None:
        """Add a finished tree; one whose outcomes are all equal changes nothing.

        Args:
            tree: with the tokens of its turns, unless contexts are ``separate``.
            tool_rewards: weight of the rewards that tools gave, beside the outcome.
            contexts: definition of equal contexts.
        """
        outcome = leaf_returns(tree, tool_rewards)
        found = spreads(tree, group_contexts(tree, contexts), outcome)
        if not found or not found[0].variance:
            return
        missing = max(0, len(found) - len(self._here))
        self._here = [self._decay * each for each in self._here] + [0.0] * missing
        self._prompt = [self._decay * each for each in self._prompt] + [0.0] * missing
        for depth, spread in enumerate(found):
            self._here[depth] += spread.freedom * spread.variance
            self._prompt[depth] += spread.freedom * found[0].variance
        leaves = [node.index for node in tree.nodes if outcome[node.index] is not None]
        turns = math.fsum(len(tree.path(leaf)) for leaf in leaves) / len(leaves)
        self._trees = self._decay * self._trees + 1.0
        self._turns = self._decay * self._turns + turns
        self._scale = self._decay * self._scale + found[0].variance

    @property
    def shares(self) -> list[float]:
        """U_0 = 1, U_1, ... as deep as trees have been, never rising; [1] before there is any."""
        if not self._trees:
            return [1.0]
        assumed = self._prior * (self._scale / self._trees or 1.0)
        rate = self._rate(assumed)
        found = []
        for depth, (here, prompt) in enumerate(zip(self._here[1:], self._prompt[1:], strict=True), start=1):
            weight = prompt + assumed
            found.append((min(1.0, (here + assumed * math.exp(rate * depth)) / weight), weight))
        return [1.0, *never_rising(found)]

    def _rate(self, assumed: float) -> float:
        """log r, by weighted means of log U_k over k."""
        total, weights = assumed * math.log(max(LEAST, 1.0 - self._trees / self._turns)), assumed
        for depth, (here, prompt) in enumerate(zip(self._here[1:], self._prompt[1:], strict=True), start=1):
            if prompt:
                total += prompt * math.log(min(1.0, max(LEAST, here / prompt)))
                weights += prompt * depth
        return total / weights


def never_rising(measured: Sequence[tuple[float, float]]) -> list[float]:
    """Fit the non-increasing sequence nearest to some values, by weighted squares (pool adjacent violators).

    Args:
        measured: value and weight.

    Examples:
        >>> [round(value, 2) for value in never_rising([(0.5, 1.0), (0.8, 2.0), (0.1, 1.0)])]
        [0.7, 0.7, 0.1]
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in measured:
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (left, own, one), (right, other, more) = pools[-2:]
            pools[-2:] = [((left * own + right * other) / (own + other), own + other, one + more)]
    return [value for value, _, count in pools for _ in range(count)]
