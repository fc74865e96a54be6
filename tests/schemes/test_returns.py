"""Rewards inside the trajectory, worked by hand, and against trees and chains without any."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.assets.trees import even_rows, random_tree, tree_advantages
from verl_atpo.config import AdvantageMode, Backup, CreditConfig, Normalize, Weights
from verl_atpo.failure import TrajectoryBug
from verl_atpo.method.credit import leaf_returns, node_values
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.tree.recording import Generation, ToolCall, Turn
from verl_atpo.tree.tree import ROOT, TurnTree


def example() -> TurnTree:
    """Three trajectories; what tools gave is in brackets.

    root -> 1 [0.5] -> 2 [0.25] -> 3: leaf, 1.0     return 1.75
                    -> 4 [0]    -> 5: leaf, 0.0     return 0.5
         -> 6: leaf, 0.0                            return 0.0
    """
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.0, tool_reward=0.5)
    tree.add_turn(1, mean_nll=0.0, tool_reward=0.25)
    tree.add_turn(2, mean_nll=0.0, is_leaf=True, reward=1.0)
    tree.add_turn(1, mean_nll=0.0)
    tree.add_turn(4, mean_nll=0.0, is_leaf=True, reward=0.0)
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=0.0)
    return tree


def credit(mode: AdvantageMode, normalize: Normalize = Normalize.CENTER, weight: float = 1.0) -> CreditConfig:
    return CreditConfig(Backup.CHILD_MEAN, mode, normalize, tool_rewards=weight)


def test_values_are_returns_to_go():
    # 3: 1; 2: 0.25 + 1; 5: 0; 4: 0; 1: 0.5 + (1.25 + 0) / 2; 6: 0; root: (1.125 + 0) / 2
    assert node_values(example(), Backup.CHILD_MEAN, 1.0) == [0.5625, 1.125, 1.25, 1.0, 0.0, 0.0, 0.0]
    assert node_values(example(), Backup.CHILD_MEAN, 2.0)[1] == 1.0 + (0.5 + 1.0 + 0.0) / 2
    assert node_values(example(), Backup.CHILD_MEAN) == node_values(example(), Backup.CHILD_MEAN, 0.0)
    assert leaf_returns(example(), 1.0) == [None, None, None, 1.75, None, 0.5, 0.0]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # Mean over the trajectories of what is to come from the 1st, 2nd, 3rd turn on: 2.25/3; (1.25 + 0 + 0)/3;
        # (1 + 0 + 0)/3. The one that ended first has nothing left of its 0.
        (AdvantageMode.VALUE, [1.125 - 0.75, 1.25 - 1.25 / 3, 1 - 1 / 3, -1.25 / 3, -1 / 3, -0.75]),
        # From 1 on 0.625 is to come, from 2 on 1, from 4 on 0; the root's own value is 0.5625.
        (AdvantageMode.DIFF_PARENT, [0.5625, 0.625, 0.0, -0.625, 0.0, -0.5625]),
        # The root's value less what had been collected in the mean: 0.5625, 0.5625 - 1/3, 0.5625 - 1.25/3.
        (
            AdvantageMode.DIFF_GLOBAL,
            [0.5625, 1.25 + 1 / 3 - 0.5625, 1 + 1.25 / 3 - 0.5625, 1 / 3 - 0.5625, 1.25 / 3 - 0.5625, -0.5625],
        ),
    ],
)
def test_advantages_by_hand(mode, expected):
    assert tree_advantages(example(), credit(mode))[1:] == pytest.approx(expected)


def test_local_and_global_add_up():
    local, whole, both = (
        tree_advantages(example(), credit(mode))[1:]
        for mode in (AdvantageMode.DIFF_PARENT, AdvantageMode.DIFF_GLOBAL, AdvantageMode.DIFF_LOCALGLOBAL)
    )
    assert both == pytest.approx([one + other for one, other in zip(local, whole, strict=True)])


def test_a_reward_before_a_turn_is_not_its_merit():
    """Chains: whether the tool gave 1 or 0 behind the first turn says nothing of the second."""
    tree = TurnTree()
    for given, outcome in itertools.product((0.0, 1.0), (0.0, 1.0)):
        first = tree.add_turn(ROOT, mean_nll=0.0, tool_reward=given)
        tree.add_turn(first.index, mean_nll=0.0, is_leaf=True, reward=outcome)
    found = tree_advantages(tree, credit(AdvantageMode.VALUE))
    assert [found[node] for node in (1, 3, 5, 7)] == [-1.0, 0.0, 0.0, 1.0]
    assert [found[node] for node in (2, 4, 6, 8)] == [-0.5, 0.5, -0.5, 0.5]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", AdvantageMode)
def test_outcomes_alone_are_the_special_case(mode, seed):
    tree = random_tree(seed)
    alone = CreditConfig(Backup.CHILD_SOFTMAX, mode, Normalize.ZSCORE)
    weighted = CreditConfig(Backup.CHILD_SOFTMAX, mode, Normalize.ZSCORE, tool_rewards=3.0)
    assert tree_advantages(tree, weighted) == pytest.approx(tree_advantages(tree, alone))


@pytest.mark.parametrize("normalize", [Normalize.CENTER, Normalize.ZSCORE, Normalize.NONE])
@pytest.mark.parametrize("mode", AdvantageMode)
def test_the_estimator_reads_them_out_of_rows(mode, normalize):
    """Turns of two tokens, an observation of one between them; every row adds up to its return."""
    tree, settings = example(), credit(mode, normalize)
    rewards, mask = even_rows(tree, settings)
    torch.testing.assert_close(rewards.sum(dim=1), torch.tensor([1.75, 0.5, 0.0]))
    config = {"atpo": {"credit": {"advantage": mode.value, "normalize": normalize.value, "tool_rewards": 1.0}}}
    advantages, _ = compute_atpo_advantage(rewards, mask, np.array(["uid"] * 3), config)
    expected = tree_advantages(tree, settings)
    for row, leaf in enumerate(tree.leaves):
        for turn, node in enumerate(tree.path(leaf)):
            assert advantages[row, 3 * turn : 3 * turn + 2].tolist() == pytest.approx([expected[node]] * 2, abs=1e-5)


def test_split_weights_count_them():
    """Two strata of one chain each: the baseline of either is the other's return."""
    tree = TurnTree()
    for given, outcome in ((0.5, 1.0), (0.0, 0.25)):
        first = tree.add_turn(ROOT, mean_nll=0.0, tool_reward=given)
        tree.add_turn(first.index, mean_nll=0.0, is_leaf=True, reward=outcome)
    settings = CreditConfig(
        Backup.CHILD_MEAN, AdvantageMode.DIFF_GLOBAL, Normalize.NONE, weights=Weights.SPLIT, tool_rewards=1.0
    )
    assert tree_advantages(tree, settings)[1:] == pytest.approx([1.5 - 0.25, 1.0 - 0.25, 0.25 - 1.5, 0.25 - 1.5])


def test_what_a_turns_calls_gave():
    def turn(*results: object) -> Turn:
        calls = [ToolCall("look", {}, result=result) for result in results]
        return Turn((Generation(0, [1], SimpleNamespace(token_ids=[2]), calls),))

    assert turn().tool_reward == turn("text", ("text",), ("text", None, {})).tool_reward == 0.0
    assert turn(("text", 0.5), ("text", -2, {})).tool_reward == -1.5
    for odd in (float("nan"), "much"):
        with pytest.raises(TrajectoryBug, match="Tool 'look' gave the reward"):
            _ = turn(("text", odd)).tool_reward
