"""A²TGPO's credit, worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tests.assets.trees import random_tree
from verl_atpo.config import AtpoConfig, CreditConfig, Normalize
from verl_atpo.method.channel import TurnCredit
from verl_atpo.method.credit import Outcomes, normalization
from verl_atpo.schemes.a2tgpo import A2TGPO
from verl_atpo.schemes.a2tgpo.gains import (
    clip_change,
    discounted,
    information_gains,
    mean_over_rows,
    row_credits,
    z_scores,
)
from verl_atpo.schemes.a2tgpo.settings import InformationGainConfig
from verl_atpo.tree.tree import ROOT, TurnTree


def chains(*lengths: int, rewards: tuple[float, ...] = ()) -> tuple[TurnTree, list[list[int]]]:
    """A tree of plain chains, and its rows."""
    tree, rows = TurnTree(), []
    for number, length in enumerate(lengths):
        parent = ROOT
        for turn in range(length):
            ends = turn == length - 1
            reward = (rewards[number] if rewards else 0.0) if ends else None
            parent = tree.add_turn(parent, mean_nll=1.0, is_leaf=ends, reward=reward).index
        rows.append(tree.path(parent))
    return tree, rows


def row_advantages(tree, log_probs, rows, settings, normalize):
    """What the scheme says the estimator gives every turn of every row."""
    atpo = AtpoConfig(credit=CreditConfig(normalize=normalize), of_schemes={"information_gain": settings})
    outcomes = [tree.nodes[row[-1]].reward for row in rows]
    zero, factor = normalization(Outcomes.of(outcomes), normalize)
    credit = A2TGPO(atpo).credit(tree, rows, SimpleNamespace(log_probs=log_probs, costs=None))
    assert credit.outcomes == outcomes
    return [
        [A2TGPO(atpo).scale(turn.advantage, (outcome - zero) * factor, factor) for turn in row]
        for outcome, row in zip(outcomes, credit.rows, strict=True)
    ]


def test_gain_is_what_the_observation_added():
    """One chain of three turns, L = -3 in the prompt, -2.5 behind the first observation, -1 behind the second."""
    tree, _ = chains(3)
    assert information_gains(tree, [None, -3.0, -2.5, -1.0]) == [None, 0.5, 1.5, None]


def test_an_unknown_log_prob_is_not_0():
    """Turn 1 ends in, and turn 2 starts from, a context of which nothing is known: neither has a gain."""
    tree, rows = chains(4)
    gains = information_gains(tree, [None, -3.0, None, -1.0, -0.5])
    assert gains == [None, None, None, 0.5, None]
    # Of the terms z_1, z_2, z_3 only z_3 is known; it is alone with its number, so it is 0.
    assert row_credits(tree, [None, -3.0, None, -1.0, -0.5], rows, InformationGainConfig()) == [
        [TurnCredit(0.0, 0.0)] * 3 + [TurnCredit(0.0)]
    ]


def test_gains_are_compared_with_those_of_the_same_turn():
    """First turns 1, 3: mean 2, deviation 1. Second turns 10, 10: equal, so there is nothing to compare."""
    tree, rows = chains(3, 3)
    gains = [None, 1.0, 10.0, None, 3.0, 10.0, None]
    scores = z_scores(tree, gains, rows)
    assert scores[1] == pytest.approx(-1.0, abs=1e-5) and scores[4] == pytest.approx(1.0, abs=1e-5)
    assert scores[2] == scores[5] == 0.0
    assert scores[0] is scores[3] is scores[6] is None


def test_a_turn_alone_with_its_number_scores_0():
    tree, rows = chains(3, 2)
    assert z_scores(tree, [None, 1.0, 5.0, None, 3.0, None], rows)[2] == 0.0


def test_a_turn_that_rows_share_counts_once():
    """Node 1 is in two rows, node 4 in one: gains 0 and 1 have mean 1/2 and deviation 1/2, whatever the rows."""
    tree = TurnTree()
    shared = tree.add_turn(ROOT, mean_nll=1.0)
    for reward in (0.0, 1.0):
        tree.add_turn(shared.index, mean_nll=1.0, is_leaf=True, reward=reward)
    other = tree.add_turn(ROOT, mean_nll=1.0)
    tree.add_turn(other.index, mean_nll=1.0, is_leaf=True, reward=0.0)
    rows = [tree.path(leaf) for leaf in tree.leaves]
    scores = z_scores(tree, [None, 0.0, None, None, 1.0, None], rows)
    # Counted per row the mean would be 1/3 and the scores -0.707 and 1.414.
    assert scores[1] == pytest.approx(-1.0, abs=1e-5) and scores[4] == pytest.approx(1.0, abs=1e-5)


def test_turns_of_a_try_that_died_are_compared_with_nobody():
    tree, rows = chains(2, 2)
    dead = tree.add_turn(ROOT, mean_nll=1.0)
    tree.add_turn(dead.index, mean_nll=1.0)
    scores = z_scores(tree, [None, 1.0, None, 3.0, None, 100.0, None], rows)
    assert scores[3] == pytest.approx(1.0, abs=1e-5) and scores[5] is None


def test_where_the_environment_drifted_the_gain_is_the_mean():
    """Two turns behind node 1 saw other observations: L = -1 and -2, before it -3. A third's is not known."""
    tree = TurnTree()
    first = tree.add_turn(ROOT, mean_nll=1.0)
    for _ in range(3):
        tree.add_turn(first.index, mean_nll=1.0, is_leaf=True, reward=0.0)
    assert information_gains(tree, [None, -3.0, -1.0, -2.0, None])[1] == pytest.approx(1.5)


def test_discounted_sums_over_the_root_of_their_terms():
    """gamma = 1/2, z = 2, -1, 4: D_3 = 4; D_2 = (-1 + 2) / sqrt 2; D_1 = (2 + 1/2) / sqrt 3."""
    found = discounted([2.0, -1.0, 4.0], 0.5)
    assert found == pytest.approx([2.5 / math.sqrt(3), 1 / math.sqrt(2), 4.0])
    # z_2 is not known: it is no term, and the discount goes on over it: D_1 = (2 + 4/4) / sqrt 2, D_2 = (4/2) / 1.
    assert discounted([2.0, None, 4.0], 0.5) == pytest.approx([3 / math.sqrt(2), 2.0, 4.0])
    assert discounted([], 0.5) == []


def test_the_clip_range_follows_the_gain():
    """0.3 (2 sigmoid(1) - 1) = 0.3 (2 x 0.731059 - 1) = 0.138635."""
    assert clip_change(1.0, 0.3) == pytest.approx(0.138635, abs=1e-6)
    assert clip_change(-1.0, 0.3) == pytest.approx(-0.138635, abs=1e-6)
    assert clip_change(0.0, 0.3) == clip_change(None, 0.3) == clip_change(5.0, 0.0) == 0.0
    assert clip_change(1e6, 0.3) == pytest.approx(0.3)  # no overflow


def test_advantages_of_two_chains():
    """Outcomes 1 and 0: z = 1 and -1. First gains 1 and 3: z = -1 and 1; second gains 4 and 2: z = 1 and -1.

    alpha = 0.5, gamma = 1: D of the first chain is (-1 + 1) / sqrt 2 = 0 and 1; of the second 0 and -1.
    """
    tree, rows = chains(3, 3, rewards=(1.0, 0.0))
    log_probs = [None, -9.0, -8.0, -4.0, -9.0, -6.0, -4.0]
    settings = InformationGainConfig(weight=0.5)
    found = row_advantages(tree, log_probs, rows, settings, Normalize.ZSCORE)
    assert found[0] == pytest.approx([1.0, 1.5, 1.0], abs=1e-5)
    assert found[1] == pytest.approx([-1.0, -1.5, -1.0], abs=1e-5)
    clips = [[turn.after or 0.0 for turn in row] for row in row_credits(tree, log_probs, rows, settings)]
    assert clips[0] == pytest.approx([-0.138635, 0.138635, 0.0], abs=1e-5)


def test_equal_outcomes_leave_the_gains():
    tree, rows = chains(2, 2, rewards=(1.0, 1.0))
    found = row_advantages(
        tree, [None, -9.0, -8.0, -9.0, -6.0], rows, InformationGainConfig(weight=1.0), Normalize.ZSCORE
    )
    assert found[0] == pytest.approx([-1.0, 0.0], abs=1e-5) and found[1] == pytest.approx([1.0, 0.0], abs=1e-5)


def test_trajectories_of_one_turn_have_their_outcome_alone():
    tree, rows = chains(1, 1, rewards=(1.0, 0.0))
    found = row_advantages(tree, [None, -3.0, -3.0], rows, InformationGainConfig(), Normalize.ZSCORE)
    assert found == [[pytest.approx(1.0, abs=1e-5)], [pytest.approx(-1.0, abs=1e-5)]]


def test_a_shared_turn_has_an_advantage_per_row():
    """Rows 1-2 and 1-3-4 share turn 1, chain 5-6 stands beside them; alpha = 1.

    First gains: node 1 brings 0 (-3 to -3), node 5 brings 2: z = -1 and 1. Node 3 is alone: 0, but it is a term.
    Outcomes 1, 0, 0: mean 1/3, deviation sqrt 2 / 3, z = sqrt 2 and -1 / sqrt 2.
    """
    tree = TurnTree()
    shared = tree.add_turn(ROOT, mean_nll=1.0).index
    tree.add_turn(shared, mean_nll=1.0, is_leaf=True, reward=1.0)
    middle = tree.add_turn(shared, mean_nll=1.0).index
    tree.add_turn(middle, mean_nll=1.0, is_leaf=True, reward=0.0)
    first = tree.add_turn(ROOT, mean_nll=1.0).index
    tree.add_turn(first, mean_nll=1.0, is_leaf=True, reward=0.0)
    rows = [tree.path(leaf) for leaf in tree.leaves]
    log_probs = [None, -3.0, -3.0, -3.0, -1.0, -3.0, -1.0]
    settings = InformationGainConfig(weight=1.0)
    found = row_advantages(tree, log_probs, rows, settings, Normalize.ZSCORE)
    root = math.sqrt(2)
    assert found[0] == pytest.approx([root - 1, root], abs=1e-4)
    assert found[1] == pytest.approx([-1 / root - 1 / root, -1 / root, -1 / root], abs=1e-4)
    assert found[2] == pytest.approx([-1 / root + 1, -1 / root], abs=1e-4)
    of_nodes = mean_over_rows(rows, found, len(tree.nodes))
    assert of_nodes[shared] == pytest.approx((root - 1 - root) / 2, abs=1e-4)
    assert of_nodes[ROOT] is None


@pytest.mark.parametrize("seed", range(20))
def test_scores_of_a_number_have_mean_0_and_the_advantages_nothing_but_the_outcome_without_weight(seed):
    tree = random_tree(seed)
    rows = [tree.path(leaf) for leaf in tree.leaves]
    contexts = {node.index: -((seed * 7 + node.parent * 13) % 11) / 3 for node in tree.nodes}  # siblings share one
    log_probs = [None, *(contexts[node.index] for node in tree.nodes[1:])]
    scores = z_scores(tree, information_gains(tree, log_probs), [row[:-1] for row in rows])
    by_number: dict[int, list[float]] = {}
    for node, score in enumerate(scores):
        if score is not None:
            by_number.setdefault(tree.depth(node), []).append(score)
    for known in by_number.values():
        assert math.fsum(known) == pytest.approx(0.0, abs=1e-6)
        assert max(map(abs, known)) <= math.sqrt(len(known)) + 1e-6
    plain = row_advantages(tree, log_probs, rows, InformationGainConfig(weight=0.0), Normalize.ZSCORE)
    assert all(len(set(row)) == 1 for row in plain)
