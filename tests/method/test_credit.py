"""Node values, advantages and the shape of token-level rewards, worked by hand and over random trees."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.trees import random_tree, rows_of
from verl_atpo.config import AdvantageMode, Backup, Normalize
from verl_atpo.method.credit import (
    TINY,
    node_advantages,
    node_values,
    normalize_rewards,
    shape_token_rewards,
)
from verl_atpo.method.tree import ROOT, TurnTree

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
    assert node_advantages(tree, values, AdvantageMode.DIFF_GLOBAL)[5] is None
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
    assert node_advantages(tree, node_values(tree, Backup.CHILD_MEAN), mode) == pytest.approx(expected)


def test_normalisation():
    # 1, 1, 0, 0: mean 0.5, squared deviations add up to 1; population std sqrt(1/4), sample std sqrt(1/3).
    rewards = [1.0, 1.0, 0.0, 0.0]
    signs = [1, 1, -1, -1]
    population, sample = 0.5 / (0.5 + 1e-6), 0.5 / (math.sqrt(1 / 3) + 1e-6)
    assert normalize_rewards(rewards, Normalize.ZSCORE) == pytest.approx([population * sign for sign in signs])
    assert normalize_rewards(rewards, Normalize.ZSCORE_SAMPLE) == pytest.approx([sample * sign for sign in signs])
    assert normalize_rewards(rewards, Normalize.CENTER) == [0.5, 0.5, -0.5, -0.5]
    assert normalize_rewards(rewards, Normalize.NONE) == rewards


@pytest.mark.parametrize("normalize", list(Normalize))
def test_normalisation_of_one_and_of_none(normalize):
    alone = {Normalize.NONE: 0.7, Normalize.ZSCORE_SAMPLE: 0.7 / (1 + 1e-6)}.get(normalize, 0.0)
    assert normalize_rewards([0.7], normalize) == pytest.approx([alone])
    assert normalize_rewards([], normalize) == []


@given(seeds, backups, st.sampled_from(list(Normalize)))
def test_normalising_before_or_after_the_backup_is_the_same(seed, backup, normalize):
    tree = random_tree(seed)
    rewards = [tree.nodes[leaf].reward for leaf in tree.leaves]
    raw = node_values(tree, backup)
    for leaf, reward in zip(tree.leaves, normalize_rewards(rewards, normalize), strict=True):
        tree.nodes[leaf].reward = reward
    # The affine map of the rewards, applied to values: normalize_rewards with two probes tells its slope and offset.
    if max(rewards) - min(rewards) > 0.1:
        low, high = min(rewards), max(rewards)
        at = dict(zip(rewards, normalize_rewards(rewards, normalize), strict=True))
        slope = (at[high] - at[low]) / (high - low)
        assert node_values(tree, backup) == pytest.approx([at[low] + slope * (value - low) for value in raw])


# Values 0.25 (root), 0.5, 0.75, 1.0 along a response of turns at 0, 3 and 6:
#   token 0 the root's 0.25, token 1 0.5 - 0.25, token 3 0.75 - 0.5, token 6 1.0 - 0.75.
def test_shape():
    shaped = shape_token_rewards([0.5, 0.75, 1.0], [0, 3, 6], 0.25, 8)
    assert shaped == [0.25, 0.25, 0, 0.25, 0, 0, 0.25, 0]


def test_shape_of_a_root_value_of_0_is_still_a_trees():
    assert shape_token_rewards([0.0, 1.0], [0, 2], 0.0, 3) == [TINY, -TINY, 1.0]
    assert shape_token_rewards([1.0], [0], -0.0, 2) == [TINY, 1.0]
    assert TINY == struct.unpack("f", struct.pack("f", TINY))[0] > 0


def test_shape_of_turns_that_the_response_limit_cut_off():
    # Turns at 0, 3 and 6 in a response of 5 tokens: what is left, 1.0 - 0.75, goes on token 4.
    assert shape_token_rewards([0.5, 0.75, 1.0], [0, 3, 6], 0.25, 5) == [0.25, 0.25, 0, 0.25, 0.25]
    assert shape_token_rewards([0.5, 0.75, 1.0], [0, 5, 9], 0.25, 5) == [0.25, 0.25, 0, 0, 0.5]
    assert shape_token_rewards([0.5, 1.0], [0, 3], 0.25, 2) == [0.25, 0.75]
    assert shape_token_rewards([0.5, 1.0], [0, 3], 0.25, 1) == [1.0]


@pytest.mark.parametrize(
    ("values", "starts", "root", "length", "message"),
    [
        ([], [], 0.0, 3, "0 values for 0 turns"),
        ([1.0], [0, 2], 0.0, 3, "1 values for 2 turns"),
        ([1.0], [1], 0.0, 3, "expected 0 first"),
        ([1.0, 2.0], [0, 1], 0.0, 3, "rising by at least 2"),
        ([1.0, math.nan], [0, 2], 0.0, 3, "expected finite"),
        ([1.0], [0], math.inf, 3, "expected finite"),
        ([1.0], [0], 0.0, 0, "length=0"),
    ],
)
def test_shape_refuses(values, starts, root, length, message):
    with pytest.raises(ValueError, match=message):
        shape_token_rewards(values, starts, root, length)


@given(seeds, backups)
def test_shape_then_running_sum_gives_the_values_back(seed, backup):
    tree = random_tree(seed)
    values = node_values(tree, backup)
    for row in rows_of(tree, backup, seed):
        assert sum(row.rewards) == pytest.approx(values[row.path[-1]], rel=1e-7, abs=1e-7)
        assert all(reward == struct.unpack("f", struct.pack("f", reward))[0] for reward in row.rewards)
        if len(row.rewards) == 1:
            continue
        assert row.rewards[0] != 0
        assert row.rewards[0] == pytest.approx(values[ROOT], rel=1e-7, abs=1e-7)
        for index, start in zip(row.path, row.starts, strict=True):
            assert sum(row.rewards[: max(start, 1) + 1]) == pytest.approx(values[index], rel=1e-7, abs=1e-7)


@given(st.lists(st.integers(-64, 64), min_size=2, max_size=30))
def test_the_round_trip_is_exact_on_dyadic_values(eighths):
    root, *values = (eighth / 8 for eighth in eighths)
    starts = [3 * turn for turn in range(len(values))]
    shaped = shape_token_rewards(values, starts, root, starts[-1] + 2)
    assert [sum(shaped[: max(start, 1) + 1]) for start in starts] == values
    assert sum(shaped) == values[-1]
    assert shaped[0] == (root or TINY)


def test_many_turns_do_not_add_up_rounding():
    values = [1 / (3 + turn % 7) for turn in range(1000)]
    shaped = shape_token_rewards(values, [2 * turn for turn in range(1000)], 1 / 3, 2000)
    assert abs(sum(shaped) - values[-1]) < 1e-8  # plain float32 differences: 7e-7
