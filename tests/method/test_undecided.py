"""The running estimate of what is undecided after each turn: by hand, and against values that are known."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from tests.assets.trees import random_talk
from verl_atpo.config import Contexts
from verl_atpo.method.noise import relative_noise
from verl_atpo.method.undecided import Spread, Undecided, never_rising, spreads
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree


def expanded(outcomes: tuple[float, ...] = (1.0, 0.0, 0.0)) -> TurnTree:
    """root -> 1 -> 2, 3; root -> 4."""
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.0)
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=outcomes[0])
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=outcomes[1], round=1)
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=outcomes[2])
    return tree


def found(tree: TurnTree) -> list[Spread]:
    return spreads(tree, group_contexts(tree, Contexts.SEPARATE), [node.reward for node in tree.nodes])


def test_spreads_by_hand():
    """Prompt: 2 and 4 differ by 1, 3 and 4 by 0: half of the mean square is 1/4. Context of 2 and 3: 1/2."""
    assert found(expanded()) == [Spread(1, 0.25), Spread(1, 0.5)]
    assert found(expanded((1.0, 1.0, 0.0))) == [Spread(1, 0.5), Spread(1, 0.0)]


def test_spread_of_chains_is_their_sample_variance():
    tree = TurnTree()
    for reward in (1.0, 0.0, 0.0, 3.0):
        tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=reward)
    assert found(tree) == [Spread(3, pytest.approx(2.0))]  # deviations 0, -1, -1, 2: 6 / 3


def test_nothing_is_known_at_first_and_a_prompt_alone_says_nothing():
    undecided = Undecided()
    assert undecided.shares == [1.0]
    single = TurnTree()
    single.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=1.0)
    undecided.add(single, contexts=Contexts.SEPARATE)
    assert undecided.shares == [1.0]


def test_shares_approach_what_trees_measure():
    """Outcomes are the sum of an effect of the first turn, variance 3, and of what follows, variance 1: U_1 = 1/4."""
    rng = random.Random(0)
    undecided = Undecided(prior=4.0)
    for _ in range(800):
        tree = TurnTree()
        for _ in range(4):
            first, effect = tree.add_turn(ROOT, mean_nll=0.0).index, rng.gauss(0, math.sqrt(3))
            for _ in range(2):
                tree.add_turn(first, mean_nll=0.0, is_leaf=True, reward=effect + rng.gauss(0, 1))
        undecided.add(tree, contexts=Contexts.SEPARATE)
    assert undecided.shares == [1.0, pytest.approx(0.25, abs=0.03)]


def test_what_was_not_measured_falls_as_what_was():
    """Nothing was sampled twice after one turn, but after two a quarter was left: so a half after one."""
    rng = random.Random(1)
    undecided = Undecided(prior=0.01)
    for _ in range(500):
        tree = TurnTree()
        for _ in range(3):
            second = tree.add_turn(tree.add_turn(ROOT, mean_nll=0.0).index, mean_nll=0.0).index
            effect = rng.gauss(0, math.sqrt(3))
            for _ in range(2):
                tree.add_turn(second, mean_nll=0.0, is_leaf=True, reward=effect + rng.gauss(0, 1))
        undecided.add(tree, contexts=Contexts.SEPARATE)
    assert undecided.shares == [1.0, pytest.approx(0.5, abs=0.05), pytest.approx(0.25, abs=0.04)]


@pytest.mark.parametrize("words", [1, 2, 10**9])
def test_shares_start_at_one_and_never_rise(words):
    undecided = Undecided()
    for seed in range(60):
        undecided.add(random_talk(seed, words))
        shares = undecided.shares
        assert shares[0] == 1.0
        assert all(0.0 <= after <= before for before, after in itertools.pairwise(shares))


def test_trees_of_equal_outcomes_say_nothing():
    undecided = Undecided()
    undecided.add(expanded(), contexts=Contexts.SEPARATE)
    before = undecided.shares
    for _ in range(3):
        undecided.add(expanded((1.0, 1.0, 1.0)), contexts=Contexts.SEPARATE)
    assert undecided.shares == before


def test_old_trees_are_forgotten():
    undecided = Undecided(prior=1.0, memory=20.0)
    for _ in range(100):
        undecided.add(expanded((1.0, 1.0, 0.0)), contexts=Contexts.SEPARATE)
    assert undecided.shares[1] < 0.1
    for _ in range(200):
        undecided.add(expanded((1.0, 0.0, 0.5)), contexts=Contexts.SEPARATE)
    assert undecided.shares[1] > 0.8


def test_pools_of_adjacent_violators():
    assert never_rising([(0.9, 1.0), (0.5, 1.0), (0.7, 3.0)]) == pytest.approx([0.9, 0.65, 0.65])
    assert never_rising([(0.1, 1.0), (0.2, 1.0), (0.6, 2.0)]) == pytest.approx([0.375] * 3)
    assert never_rising([]) == []


@pytest.mark.parametrize("sampled", [1, 2, 5])
@pytest.mark.parametrize("chains", [2, 6, 12])
def test_an_expansion_at_the_prompt_is_a_fresh_chain(sampled, chains):
    """s = 0 and U = 1, and the prompt has many chains: (1 + 0 + ...) / 2 times 2 over the same without."""
    assert relative_noise(1.0, 0.0, 10**9, chains) == pytest.approx(1.0)


def test_relative_noise_by_simulation():
    """Chains of two turns of equal length that share nothing; U after the first is 0.4; baselines by precision.

    A chain with one expansion, M = 5, is compared with 7.5 chains, by the formula's own words: noise is the mean of a
    turn's squared advantage, a turn's weight is shared, and tokens are 1.5 to 1 chain.
    """
    rng = random.Random(3)
    left, chains, trials = 0.4, 5, 40_000
    squares = [0.0, 0.0]
    for _ in range(trials):
        values = [rng.gauss(0, math.sqrt(1 - left)) for _ in range(chains)]
        pairs = [[value + rng.gauss(0, math.sqrt(left)) for _ in range(2)] for value in values]
        means = [sum(pair) / 2 for pair in pairs]
        others = sum(means[1:]) / (chains - 1)
        squares[0] += (means[0] - others) ** 2
        prior = 1 - left + (1 - left / 2) / (chains - 1)
        base = (pairs[0][1] / left + others / prior) / (1 / left + 1 / prior)
        squares[1] += (pairs[0][0] - base) ** 2
    tree = (0.5 * squares[0] + 0.5 * squares[1] / 2) / trials / chains
    many = chains * 1.5
    plain = (1 + 1 / (many - 1)) / many
    assert relative_noise(left, 0.5, 1, chains) == pytest.approx(tree / plain, rel=0.02)
