"""The profile of chains by depth, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from verl_atpo.method.lengths import Lengths, depths_of, expected_turns
from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, Depth, TurnTree


def tree_of(*chains: tuple[int, ...], round: int = 0) -> TurnTree:
    """A tree of chains with so many tokens in their turns, grown in a round."""
    tree = TurnTree()
    for tokens in chains:
        node = ROOT
        for number, count in enumerate(tokens, start=1):
            turn = Turn((Generation(0, [1], SimpleNamespace(token_ids=[0] * count, log_probs=[-1.0] * count)),))
            node = tree.add_turn(node, mean_nll=1.0, is_leaf=number == len(tokens), round=round, turn=turn).index
    return tree


def check(found: list[Depth], *expected: tuple[float, float]) -> None:
    assert [(each.spent, each.going) for each in found] == [pytest.approx(each) for each in expected]


def test_two_chains_by_hand():
    # 2 of 10 and 6 of 8 tokens before the second turn, so 0.2 and 0.75; one of two goes on after it, with 4 of 10.
    tree = tree_of((2, 2, 6), (6, 2))
    check(depths_of(tree, tree.leaves), (0.0, 1.0), ((0.2 + 0.75) / 2, 0.5), (0.4, 0.0))
    assert expected_turns(depths_of(tree, tree.leaves)) == 2.5
    check(depths_of(tree, []))
    assert expected_turns([]) is None


def test_later_trees_weigh_more_and_expansions_nothing():
    lengths = Lengths(memory=1.0)
    check(lengths.depths)
    lengths.add(tree_of((1, 1)))
    lengths.add(tree_of((4,)))
    lengths.add(tree_of((1,) * 9, round=1))  # no chains, and all others have faded once more
    old, new = math.exp(-1.0), 1.0
    check(lengths.depths, (0.0, old / (old + new)), (0.5, 0.0))
    assert expected_turns(lengths.depths) == pytest.approx(1 + old / (old + new))
