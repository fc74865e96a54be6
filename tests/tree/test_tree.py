"""The turn tree: derived paths, refused turns, and a pure core that imports nothing heavy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.trees import random_tree
from verl_atpo.tree.tree import ROOT, TurnTree


def two_chains() -> TurnTree:
    """Root -> 1 -> 2 (leaf), root -> 3 (leaf), and 4, re-sampled from the context of 2."""
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.7)
    tree.add_turn(1, mean_nll=0.2, is_leaf=True, reward=1.0)
    tree.add_turn(ROOT, mean_nll=0.9, is_leaf=True)
    tree.add_turn(1, mean_nll=0.4, is_leaf=True, reward=0.0, round=1)
    return tree


def test_paths_leaves_and_children():
    tree = two_chains()
    assert tree.leaves == [2, 3, 4]
    assert [tree.path(index) for index in range(5)] == [[], [1], [1, 2], [3], [1, 4]]
    assert [tree.depth(index) for index in range(5)] == [0, 1, 2, 1, 2]
    assert [node.children for node in tree.nodes] == [[1, 3], [2, 4], [], [], []]
    assert [node.reward for node in tree.nodes] == [None, None, 1.0, None, 0.0]  # not known is not 0
    assert [node.round for node in tree.nodes] == [0, 0, 0, 0, 1]
    assert tree.nodes[ROOT].parent == -1
    assert tree.nodes[ROOT].mean_nll is None


@pytest.mark.parametrize(
    ("parent", "turn", "message"),
    [
        (9, {"mean_nll": 1.0}, "parent=9 is not a node"),
        (-1, {"mean_nll": 1.0}, "parent=-1 is not a node"),
        (2, {"mean_nll": 1.0}, "parent=2 is a leaf"),
        (1, {"mean_nll": float("nan")}, "mean_nll=nan"),
        (1, {"mean_nll": float("inf")}, "mean_nll=inf"),
        (1, {"mean_nll": 1.0, "reward": 1.0}, "reward=1.0 on a turn that is no leaf"),
        (1, {"mean_nll": 1.0, "is_leaf": True, "reward": float("nan")}, "reward=nan"),
    ],
)
def test_a_turn_that_cannot_be_is_refused_and_not_added(parent, turn, message):
    tree = two_chains()
    with pytest.raises(ValueError, match=message):
        tree.add_turn(parent, **turn)
    assert len(tree.nodes) == 5


@given(st.integers(0, 10**6))
def test_every_path_climbs_to_the_root_and_leaves_have_no_children(seed):
    tree = random_tree(seed)
    for node in tree.nodes[1:]:
        assert node.index in tree.nodes[node.parent].children
        assert tree.path(node.index) == [*tree.path(node.parent), node.index]
        assert node.is_leaf == (not node.children)
