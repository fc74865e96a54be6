"""Running profile of chains by depth: tokens spent before a turn, and the share of chains that continues after it.

Expansions that start while chains run (``schedule=staggered``) are placed by what earlier trees were like: how many
turns a chain takes, and how much of it has been sampled before its k-th turn. Pure Python.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from verl_atpo.tree.tree import Depth, TurnTree


def depths_of(tree: TurnTree, leaves: Iterable[int]) -> list[Depth]:
    """Describe the depths of some finished trajectories of a tree, first turns first."""
    totals = _Totals()
    for leaf in leaves:
        totals.add([len(tree.turn(node).token_ids) for node in tree.path(leaf)])
    return totals.depths


class _Totals:
    """Sums over chains by depth.

    Attributes:
        chains: number of chains.
        came: chains with a turn of each depth.
        spent: sum of the shares of their tokens before it.
    """

    def __init__(self) -> None:
        self.chains = 0.0
        self.came: list[float] = []
        self.spent: list[float] = []

    def add(self, tokens: Sequence[int]) -> None:
        """Add a chain with so many tokens in its turns."""
        self.chains += 1.0
        total = sum(tokens)
        for depth, before in enumerate(itertools.accumulate([0, *tokens[:-1]])):
            if len(self.came) == depth:
                self.came.append(0.0)
                self.spent.append(0.0)
            self.came[depth] += 1.0
            self.spent[depth] += before / total

    def fade(self, factor: float) -> None:
        """Reduce the weight of all chains so far."""
        self.chains *= factor
        self.came = [factor * each for each in self.came]
        self.spent = [factor * each for each in self.spent]

    @property
    def depths(self) -> list[Depth]:
        going = [came / self.chains for came in self.came[1:]] + [0.0]
        return [
            Depth(spent / came, on) for spent, came, on in zip(self.spent, self.came, going, strict=bool(self.came))
        ]


class Lengths:
    """Profile of the chains of recent trees.

    Args:
        memory: trees after which a tree weighs 1/e of the newest one.
    """

    def __init__(self, memory: float = 512.0) -> None:
        self._decay = math.exp(-1.0 / memory)
        self._totals = _Totals()

    def add(self, tree: TurnTree) -> None:
        """Add the initial chains of a finished tree; expansions are longer than chains, because they share turns."""
        self._totals.fade(self._decay)
        for node in tree.nodes:
            if node.is_leaf and node.round == 0:
                self._totals.add([len(tree.turn(each).token_ids) for each in tree.path(node.index)])

    @property
    def depths(self) -> list[Depth]:
        """The depths of chains; none before there is a tree."""
        return self._totals.depths


def expected_turns(depths: Sequence[Depth]) -> float | None:
    """Compute the mean number of turns of a chain; None where nothing is known.

    Examples:
        Half of the chains end after one turn, the others after two:

        >>> expected_turns([Depth(0.0, 0.5), Depth(0.4, 0.0)])
        1.5
    """
    return 1.0 + math.fsum(each.going for each in depths) if depths else None
