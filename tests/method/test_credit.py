"""Node values, scales and advantages, worked by hand and over random trees."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.trees import random_tree, scaled, tree_advantages
from verl_atpo.config import AdvantageMode, Backup, CreditConfig, Normalize
from verl_atpo.method.credit import (
    Outcomes,
    node_values,
    normalization,
    turn_advantage,
)
from verl_atpo.tree.tree import ROOT, TurnTree

seeds = st.integers(0, 10**6)
backups = st.sampled_from(list(Backup))


def example(last: float | None = 0.0) -> TurnTree:
    """Root -> 1 -> {2: leaf 1.0, 3: leaf 0.0, 4: leaf 0.5}, root -> 5: leaf ``last``."""
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=math.log(3))
    tree.add_turn(1, mean_nll=math.log(2), is_leaf=True, reward=1.0)
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=0.0)
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=0.5, round=1)
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=last)
    return tree


@pytest.mark.parametrize(
    ("backup", "inner", "root"),
    [
        (Backup.CHILD_MEAN, 0.5, 0.25),  # (1 + 0 + 0.5) / 3; (0.5 + 0) / 2
        (Backup.LEAF_MEAN, 0.5, 0.375),  # the same; four leaves below the root: 1.5 / 4
        (Backup.CHILD_SOFTMAX, 0.625, 0.46875),  # weights 2:1:1 -> 0.5 + 0 + 0.125; weights 3:1 -> 0.625 * 3 / 4
    ],
)
def test_backups(backup, inner, root):
    assert node_values(example(), backup) == pytest.approx([root, inner, 1.0, 0.0, 0.5, 0.0])


@pytest.mark.parametrize("backup", list(Backup))
def test_a_value_that_is_not_known_is_left_out_and_never_0(backup):
    # Without leaf 5 the root has one child of known value, whatever the weights.
    tree = example(last=None)
    values = node_values(tree, backup)
    assert values[5] is None
    assert values[ROOT] == pytest.approx(values[1])
    assert tree_advantages(tree, CreditConfig(backup, AdvantageMode.DIFF_GLOBAL))[5] is None
    # Leaf 3 not known either: 1.0 and 0.5 are left, weighted 1:1 or 2:1.
    tree.nodes[3].reward = None
    assert node_values(tree, backup)[1] == pytest.approx(2.5 / 3 if backup is Backup.CHILD_SOFTMAX else 0.75)
    for leaf in (2, 4):
        tree.nodes[leaf].reward = None
    assert node_values(tree, backup) == [None] * 6


def test_softmax_of_large_entropies_does_not_overflow():
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=2000.0 + math.log(3), is_leaf=True, reward=1.0)
    tree.add_turn(ROOT, mean_nll=2000.0, is_leaf=True, reward=0.0)
    assert node_values(tree, Backup.CHILD_SOFTMAX)[ROOT] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (AdvantageMode.VALUE, [0.25, 0.5, 1.0, 0.0, 0.5, 0.0]),
        (AdvantageMode.DIFF_PARENT, [0.25, 0.25, 0.5, -0.5, 0.0, -0.25]),
        (AdvantageMode.DIFF_GLOBAL, [0.25, 0.25, 0.75, -0.25, 0.25, -0.25]),
        (AdvantageMode.DIFF_LOCALGLOBAL, [0.25, 0.5, 1.25, -0.75, 0.25, -0.5]),
    ],
)
def test_advantages(mode, expected):
    tree = example()
    settings = CreditConfig(Backup.CHILD_MEAN, mode, Normalize.NONE)
    assert tree_advantages(tree, settings) == pytest.approx(expected)


def test_normalisation():
    # 1, 1, 0, 0: mean 0.5, squared deviations add up to 1; population std sqrt(1/4), sample std sqrt(1/3).
    rewards = [1.0, 1.0, 0.0, 0.0]
    signs = [1, 1, -1, -1]
    population, sample = 0.5 / (0.5 + 1e-6), 0.5 / (math.sqrt(1 / 3) + 1e-6)
    assert scaled(rewards, Normalize.ZSCORE) == pytest.approx([population * sign for sign in signs])
    assert scaled(rewards, Normalize.ZSCORE_SAMPLE) == pytest.approx([sample * sign for sign in signs])
    assert scaled(rewards, Normalize.CENTER) == [0.5, 0.5, -0.5, -0.5]
    assert scaled(rewards, Normalize.NONE) == rewards


@pytest.mark.parametrize("normalize", list(Normalize))
def test_normalisation_of_one_and_of_equals(normalize):
    alone = {Normalize.NONE: 0.7, Normalize.ZSCORE_SAMPLE: 0.7 / (1 + 1e-6)}.get(normalize, 0.0)
    assert scaled([0.7], normalize) == pytest.approx([alone])
    # 0.7 as float32 and as float64: rounding, not a difference.
    equals = scaled([0.7, 0.699999988079071], normalize)
    assert equals == ([0.7, 0.699999988079071] if normalize is Normalize.NONE else [0.0, 0.0])


@given(seeds, st.sampled_from(list(Normalize)))
def test_floats_and_tensors_are_scaled_alike(seed, normalize):
    groups = [[random.Random(seed + group).choice([0.0, 1.0, -0.3]) for _ in range(group + 1)] for group in range(6)]
    floats = [normalization(Outcomes.of(group), normalize) for group in groups]
    columns = zip(*(dataclasses.astuple(Outcomes.of(group)) for group in groups), strict=True)
    tensors = normalization(Outcomes(*map(torch.tensor, map(list, columns))), normalize)
    torch.testing.assert_close(torch.stack(tensors, dim=1), torch.tensor(floats))


@pytest.mark.parametrize("mode", list(AdvantageMode))
def test_floats_and_tensors_have_the_same_advantage(mode):
    values = [0.5, 0.25, -1.0]
    tensors = [torch.tensor([value, 2 * value]) for value in values]
    once = turn_advantage(mode, *values)
    assert turn_advantage(mode, *tensors).tolist() == [once, 2 * once]


@given(seeds, backups, st.sampled_from(list(Normalize)))
def test_normalising_before_or_after_the_backup_is_the_same(seed, backup, normalize):
    tree = random_tree(seed)
    rewards = [tree.nodes[leaf].reward for leaf in tree.leaves]
    raw = node_values(tree, backup)
    for leaf, reward in zip(tree.leaves, scaled(rewards, normalize), strict=True):
        tree.nodes[leaf].reward = reward
    offset, factor = normalization(Outcomes.of(rewards), normalize)
    assert node_values(tree, backup) == pytest.approx([(value - offset) * factor for value in raw])
