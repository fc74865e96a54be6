"""Which turns are re-sampled, on a tree small enough to do by hand.

0 root
|-- 1 (1.0 nats, round 0)
|   |-- 2 (0.6, round 0) -- 3 (leaf)
|   `-- 6 (0.9, round 1) -- 7 (0.5, round 1) -- 8 (leaf)     6 was re-sampled from the context of 2
|-- 4 (0.8, round 0) -- 5 (leaf)
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from verl_atpo.config import ConfigError, ExpansionConfig, Penalty, Schedule
from verl_atpo.method.expansion import STRATEGIES, explain_selection, register_strategy, select_turns, uncertainty_score
from verl_atpo.method.noise import relative_noise
from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, Depth, TurnTree


def example() -> TurnTree:
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=1.0)
    tree.add_turn(1, mean_nll=0.6)
    tree.add_turn(2, mean_nll=9.0, is_leaf=True, reward=1.0)
    tree.add_turn(ROOT, mean_nll=0.8)
    tree.add_turn(4, mean_nll=9.0, is_leaf=True, reward=0.0)
    tree.add_turn(1, mean_nll=0.9, round=1)
    tree.add_turn(6, mean_nll=0.5, round=1)
    tree.add_turn(7, mean_nll=9.0, is_leaf=True, reward=0.0, round=1)
    return tree


def select(tree: TurnTree, k: int, seed: int = 0, **settings: object) -> list[int]:
    return select_turns(tree, k, ExpansionConfig(**settings), random.Random(seed))


def test_penalty_on_siblings():
    # siblings - 1: root and 1, 4 (children of the root): 1; 2, 6 (children of 1): 1; 7 (an only child): 0.
    config = ExpansionConfig(penalty=0.45, penalty_counts=Penalty.SIBLINGS)
    scores = {index: uncertainty_score(example(), index, config) for index in (0, 1, 2, 4, 6, 7)}
    assert scores == pytest.approx({0: -0.45, 1: 0.55, 2: 0.15, 4: 0.35, 6: 0.45, 7: 0.5})
    assert select(example(), 6, penalty=0.45, penalty_counts=Penalty.SIBLINGS) == [1, 7, 6, 4, 2, 0]


def test_penalty_on_expansions():
    # Re-sampled children: none of the root, so 0, 1 and 4 pay nothing; one of node 1, so 2 and 6 pay once. Node 7 is
    # the first turn after 6 in the same branch: nothing was re-sampled there.
    config = ExpansionConfig(penalty=0.45, penalty_counts=Penalty.EXPANSIONS)
    scores = {index: uncertainty_score(example(), index, config) for index in (0, 1, 2, 4, 6, 7)}
    assert scores == pytest.approx({0: 0.0, 1: 1.0, 2: 0.15, 4: 0.8, 6: 0.45, 7: 0.5})
    assert select(example(), 6, penalty=0.45, penalty_counts=Penalty.EXPANSIONS) == [1, 4, 7, 6, 2, 0]


def test_a_fresh_chain_grown_from_the_root_counts_against_the_root_and_first_turns():
    tree = example()
    tree.add_turn(ROOT, mean_nll=0.1, is_leaf=True, reward=0.0, round=1)
    config = ExpansionConfig(penalty=0.25, penalty_counts=Penalty.EXPANSIONS)
    assert [uncertainty_score(tree, index, config) for index in (0, 1, 4)] == pytest.approx([-0.25, 0.75, 0.55])


def test_leaves_are_never_picked_and_fewer_candidates_than_k_start_over():
    assert select(example(), 8, penalty=0.0) == [1, 6, 4, 2, 7, 0, 1, 6]
    single_turns = TurnTree()
    for _ in range(3):
        single_turns.add_turn(ROOT, mean_nll=1.0, is_leaf=True, reward=0.0)
    assert select(single_turns, 3) == [ROOT, ROOT, ROOT]


def test_ties_keep_index_order():
    tree = TurnTree()
    for mean_nll in (0.5, 0.7, 0.5, 0.7):
        tree.add_turn(ROOT, mean_nll=mean_nll)
    assert select(tree, 5, penalty=0.0) == [2, 4, 1, 3, 0]


def test_random_goes_through_all_candidates_and_follows_the_seed():
    orders = [select(example(), 6, seed=seed, strategy="random") for seed in range(20)]
    assert all(sorted(order) == [0, 1, 2, 4, 6, 7] for order in orders)
    assert len(set(map(tuple, orders))) > 10
    assert orders[3] == select(example(), 6, seed=3, strategy="random")


def test_unknown_strategy_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"strategy='entropic' cannot work: .* entropy, noise, other_chains, random"):
        select(example(), 1, strategy="entropic")


def test_a_registered_strategy_is_used_and_its_name_is_taken(monkeypatch):
    monkeypatch.setattr("verl_atpo.method.expansion.STRATEGIES", registry := dict(STRATEGIES))

    @register_strategy("deepest")
    def deepest(tree, candidates, config, rng):
        return sorted(candidates, key=tree.depth, reverse=True)

    assert select(example(), 2, strategy="deepest") == [7, 2]
    assert register_strategy("deepest")(deepest) is deepest  # the same again is no conflict
    with pytest.raises(ValueError, match="'deepest' is registered already"):
        register_strategy("deepest")(lambda *_: [])
    assert "deepest" in registry
    assert "deepest" not in STRATEGIES


def test_candidates_may_have_to_share_something_where_there_are_such():
    def deep(tree: TurnTree, depth: int) -> list[int]:
        return select_turns(tree, 6, ExpansionConfig(penalty=0.0), random.Random(0), least_depth=depth)

    assert deep(example(), 0) == [1, 6, 4, 2, 7, 0]
    assert deep(example(), 1) == [1, 6, 4, 2, 7, 1]  # no root
    assert deep(example(), 2) == [6, 2, 7, 6, 2, 7]  # no first turns either
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.5)
    assert deep(tree, 2) == [1] * 6  # nothing deeper is known
    assert deep(TurnTree(), 2) == [ROOT] * 6  # nothing at all


def test_what_spoke_for_a_turn_is_told_as_it_was_at_the_choice():
    tree = example()
    config = ExpansionConfig(penalty=0.45, penalty_counts=Penalty.SIBLINGS)
    best, last = explain_selection(tree, [1, 0], config)
    assert (best.node, best.rank, best.candidates) == (1, 1, 6)
    assert (best.score, best.penalty) == pytest.approx((0.55, 0.45))
    assert (last.node, last.rank) == (ROOT, 6)
    assert (last.score, last.penalty) == pytest.approx((-0.45, 0.45))
    tree.pending[1] = 1  # one more sibling of 2 and 6 on its way
    assert explain_selection(tree, [6], config)[0].penalty == pytest.approx(0.9)


def chains(count: int, tokens: tuple[int, ...], repeated: bool, undecided: tuple[float, ...]) -> TurnTree:
    """Chains whose turns have these numbers of tokens; they all say the same, or nothing that another says."""
    tree = TurnTree(undecided)
    for chain in range(count):
        parent = ROOT
        for number, length in enumerate(tokens, start=1):
            output = SimpleNamespace(token_ids=[0 if repeated else chain] * length, log_probs=[-1.0] * length)
            turn = Turn((Generation(0, [number], output),))
            last = {"is_leaf": True, "reward": 0.0} if number == len(tokens) else {}
            parent = tree.add_turn(parent, mean_nll=1.0, turn=turn, **last).index
    return tree


@pytest.mark.parametrize(
    ("undecided", "depth"),
    [
        ((1.0, 0.1, 0.1, 0.1), 1),  # decided by the first turn: the noise of all later ones goes for the fewest shared
        ((1.0, 1.0, 1.0, 1.0), 3),  # nothing is decided before the last: the cheapest expansion says the most
        ((1.0, 1.0, 0.1, 0.1), 2),
    ],
)
def test_noise_expands_every_chain_once_where_it_pays_most(undecided, depth):
    tree = chains(3, (4, 4, 4, 4, 4), repeated=False, undecided=undecided)
    expected = [1 + 5 * chain + depth for chain in range(3)]  # the turn after `depth` others
    ratings = {at: relative_noise(undecided[at], at / 5, 1, 3) for at in (1, 2, 3)}
    assert min(ratings, key=ratings.__getitem__) == depth
    assert sorted(select(tree, 3, strategy="noise")) == expected
    tree.add_turn(expected[0] - 1, mean_nll=1.0, round=1, turn=tree.turn(expected[0]))
    tree.pending[expected[1] - 1] = 1  # an expansion that has not sampled a turn yet
    assert select(tree, 1, strategy="noise") == [expected[2]]


def test_noise_samples_a_fresh_chain_where_no_expansion_pays():
    """All chains say the same, so everything is compared already, and little is left to be found out."""
    tree = chains(6, (4, 4, 4, 4), repeated=True, undecided=(1.0, 0.05, 0.05, 0.05))
    assert select(tree, 3, strategy="noise") == [ROOT] * 3
    assert relative_noise(0.05, 0.5, 6, 6) > 1
    apart = chains(6, (4, 4, 4, 4), repeated=False, undecided=(1.0, 0.05, 0.05, 0.05))
    assert ROOT not in select(apart, 3, strategy="noise")


def test_noise_gives_the_second_expansion_of_a_chain_its_own_context():
    """Two of the three chains can be expanded, and four expansions start together.

    The outcome is decided slowly, so a third turn in the best context lowers noise less than a second one elsewhere.
    """
    undecided = (1.0, 0.8, 0.6, 0.4)
    tree = chains(2, (4, 4, 4, 4), repeated=False, undecided=undecided)
    tree.add_turn(ROOT, mean_nll=1.0, is_leaf=True, reward=0.0, turn=tree.turn(1))
    ratings = {at: relative_noise(undecided[at], at / 4, 1, 3) for at in (1, 2)}
    best = min(ratings, key=ratings.__getitem__)
    (other,) = {1, 2} - {best}
    assert relative_noise(undecided[best], best / 4, 2, 3) > ratings[other]
    selected = select(tree, 4, initial_chains=3, branches_per_round=4, rounds=1, strategy="noise")
    assert selected == [1 + best, 5 + best, 1 + other, 5 + other]
    assert not tree.pending


def test_noise_with_a_single_chain_starts_where_it_can():
    assert select(chains(1, (4, 4), repeated=False, undecided=(1.0,)), 2, strategy="noise") == [0, 1]


def test_ties_go_by_depth_as_the_authors_walk_the_tree():
    """Chain 1 -> 2 -> 3 (leaf), chain 4 -> 5 (leaf), all of one NLL: 1 and 4 come before 2, which has a lower index."""
    tree = TurnTree()
    first = tree.add_turn(ROOT, mean_nll=1.0).index
    second = tree.add_turn(first, mean_nll=1.0).index
    tree.add_turn(second, mean_nll=1.0, is_leaf=True, reward=0.0)
    fourth = tree.add_turn(ROOT, mean_nll=1.0).index
    tree.add_turn(fourth, mean_nll=1.0, is_leaf=True, reward=0.0)
    assert tree.breadth_first == [ROOT, 1, 4, 2, 5, 3]
    config = ExpansionConfig(penalty=0.0)
    selected = select_turns(tree, 4, config, random.Random(0))
    assert selected == [1, 4, 2, ROOT]
    assert [pick.rank for pick in explain_selection(tree, selected, config)] == [1, 2, 3, 4]


def test_no_turn_is_selected_twice_where_others_will_be_known_later():
    def waiting(tree: TurnTree, depth: int) -> list[int]:
        config = ExpansionConfig(penalty=0.0)
        return select_turns(tree, 6, config, random.Random(0), least_depth=depth, wait=True)

    assert waiting(example(), 2) == [6, 2, 7]
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.5)
    assert waiting(tree, 2) == [] and waiting(tree, 1) == [1]


def running(*lengths: int, ended: tuple[int, ...] = ()) -> TurnTree:
    """Chains of an earlier step's five equal turns, of which so many are sampled, half of the variance decided by two.

    Node numbers go through the first chain's turns, then the second's.
    """
    depths = [Depth(at / 5, float(at < 4)) for at in range(5)]
    tree = TurnTree((1.0, 1.0, 0.1, 0.1, 0.1), depths)
    for chain, length in enumerate(lengths):
        parent = ROOT
        for number in range(length):
            turn = Turn((Generation(0, [number], SimpleNamespace(token_ids=[chain], log_probs=[-1.0])),))
            last = {"is_leaf": True, "reward": 0.0} if chain in ended and number == length - 1 else {}
            parent = tree.add_turn(parent, mean_nll=1.0, turn=turn, sampled_by=chain, **last).index
    return tree


def staggered(tree: TurnTree) -> list[int]:
    config = ExpansionConfig(3, 3, 1, strategy="noise", schedule=Schedule.STAGGERED)
    return select_turns(tree, 3, config, random.Random(0), least_depth=2, wait=True)


def test_noise_waits_until_a_running_chain_is_at_its_best_depth():
    """The best context is the one after two turns, where a third was sampled."""
    assert min(range(1, 5), key=lambda at: relative_noise((1.0, 1.0, 0.1, 0.1, 0.1)[at], at / 5, 1, 3)) == 2
    assert staggered(running(2, 2, 2)) == []
    assert staggered(running(3, 2, 4)) == [3, 8]  # the third turns of the first and the third chain
    # The second chain ended after two turns, of which the first may be a fresh chain and the last is no candidate; or
    # after three, of which the second may be re-sampled, with less benefit than the others' third.
    assert staggered(running(3, 2, 3, ended=(1,))) == [3, 8]
    assert staggered(running(3, 3, 3, ended=(1,))) == [3, 9, 5]


def test_noise_gives_no_chain_a_second_expansion_before_another_had_its_first():
    tree = running(3, 2, 4)
    tree.pending[2] = 1  # the context of the first chain's third turn
    assert staggered(tree) == [8]
    tree.pending[7] = 1
    assert staggered(tree) == []
    tree = running(3, 3)  # the third chain has no turn yet
    tree.pending[2] = 1
    assert staggered(tree) == [6]
