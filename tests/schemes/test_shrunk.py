"""Shrunk baselines: worked by hand, against a dense Gaussian posterior, and by what they must reduce to."""

from __future__ import annotations

import math
import random
import statistics
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.tabular_agent import PARAMETERS, exact
from tests.assets.tabular_estimates import ARMS, sample, summed
from tests.assets.trees import credit_of, even_rows, random_talk, random_tree
from verl_atpo.config import AdvantageMode, AtpoConfig, ConfigError, Contexts, CreditConfig, Normalize
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.method.posterior import falling
from verl_atpo.method.scheme import find_scheme
from verl_atpo.method.undecided import Undecided
from verl_atpo.schemes.shrunk import Estimates, estimates
from verl_atpo.schemes.split import split_weights
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.recording import BEGIN, Generation, Turn, contexts_of
from verl_atpo.tree.tree import ROOT, TurnTree

NEW = 10**9
"""So many words that none is said twice."""
EVENLY = [1.0, 0.75, 0.5, 0.25, 0.125]


def credited(tree: TurnTree, undecided=EVENLY, contexts: Contexts = Contexts.MERGED) -> Estimates:
    return estimates(tree, group_contexts(tree, contexts), undecided, [node.reward for node in tree.nodes])


def say(tree: TurnTree, parent: int, observed: int, said: int, reward: float | None = None, **changed: Any) -> int:
    """Add a turn that reads one token and says one, and ends with ``reward``; return its number."""
    turn = Turn((Generation(0, [observed], SimpleNamespace(token_ids=[said], log_probs=[-1.0]), **changed),))
    return tree.add_turn(parent, mean_nll=1.0, is_leaf=reward is not None, reward=reward, turn=turn).index


def random_delegation(seed: int, words: int) -> TurnTree:
    """Grow chains and expansions that begin conversations and go on with any of those before."""
    rng, tree = random.Random(seed), TurnTree()
    for number in range(rng.randint(2, 8)):
        parent = rng.choice([node.index for node in tree.nodes if not node.is_leaf]) if number > 3 else ROOT
        while parent == ROOT or not tree.nodes[parent].is_leaf:
            before = [BEGIN, *tree.generations(tree.path(parent))]
            base = rng.choice(before) if len(before) > 1 and rng.random() < 0.7 else BEGIN
            changed = {} if len(before) > 1 and base is before[-1] else {"before": base}
            observed = 0 if parent == ROOT else rng.randrange(2)
            ended = len(before) == 6 or rng.random() < 0.2
            reward = rng.choice([0.0, 0.3, 1.0]) if ended else None
            parent = say(tree, parent, observed, 10 + rng.randrange(words), reward, **changed)
    return tree


def histories(tree: TurnTree) -> list[Any]:
    """List what came before each turn: all contexts and turns of its trajectory, and the context it was sampled in."""
    found: list[Any] = [()]
    for node in tree.nodes[1:]:
        generations = tree.generations(tree.path(node.index))
        asked = [tuple(context) for context in contexts_of(generations)]
        said = [tuple(generation.output.token_ids) for generation in generations[:-1]]
        found.append((tuple(asked), tuple(said)))
    return found


def test_one_expansion_by_hand():
    """root -> 1 -> 2: 1.0, expanded to 3: 0.0; root -> 4: 0.0. U = 1, 0.6: turns 2 and 3 have variance 0.6, D_0 = 0.4.

    Turn 1: value 1/2, with precision 1 / (0.4 + 0.6 / 2) for the prompt; turn 4 says 0 with 1: prompt 5/17.
    Turns 1 and 4 are compared with each other: baselines 0 and 1/2.
    Turn 2: 3 says 0 with precision 1/0.6, the prompt 0 (from 4, variance 1 + 0.4): baseline 0.
    Turn 3: 2 says 1 with precision 1/0.6, the prompt 0 with 1/1.4: baseline (1/0.6) / (1/0.6 + 1/1.4) = 0.7.
    """
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.0)
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=1.0)
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=0.0, round=1)
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=0.0)
    found = credited(tree, [1.0, 0.6], Contexts.SEPARATE)
    assert found.values == pytest.approx([5 / 17, 0.5, 1.0, 0.0, 0.0])
    assert found.baselines[1:] == pytest.approx([0.0, 0.0, 0.7, 0.5])
    assert found.advantages[1:] == pytest.approx([0.5, 1.0, -0.7, -0.5])
    assert found.peers == [0, 1, 1, 1, 1]


def test_values_weigh_by_precision():
    """root -> 1 -> (2: 1.0, 3 -> (4: 0.0, 5: 0.0)). U = 1, 0.8, 0.4.

    2 has variance 0.8; 3 has D_1 + 0.4 / 2 = 0.6. Value of 1: (1/0.8) / (1/0.8 + 1/0.6) = 3/7.
    """
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.0)
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=1.0)
    tree.add_turn(1, mean_nll=0.0)
    tree.add_turn(3, mean_nll=0.0, is_leaf=True, reward=0.0)
    tree.add_turn(3, mean_nll=0.0, is_leaf=True, reward=0.0)
    found = credited(tree, [1.0, 0.8, 0.4], Contexts.SEPARATE)
    assert found.values[1] == pytest.approx(3 / 7)
    assert found.advantages[1] == 0.0  # no other trajectory is there to compare it with
    assert found.baselines[1] is None


@given(st.integers(0, 10**6), st.lists(st.floats(0.0, 1.0), max_size=6))
def test_chains_that_share_nothing_get_the_leave_one_out_mean(seed, undecided):
    rng = random.Random(seed)
    tree, outcomes = TurnTree(), []
    for _ in range(rng.randint(2, 8)):
        parent, length = ROOT, rng.randint(1, 5)
        outcomes.append(rng.choice([0.0, 1.0, 0.3]))
        for turn in range(length):
            last = {"is_leaf": True, "reward": outcomes[-1]} if turn == length - 1 else {}
            parent = tree.add_turn(parent, mean_nll=0.0, **last).index
    advantages = credited(tree, [1.0, *undecided], Contexts.SEPARATE).advantages
    for leaf, outcome in zip(tree.leaves, outcomes, strict=True):
        others = (sum(outcomes) - outcome) / (len(outcomes) - 1)
        for node in tree.path(leaf):
            assert advantages[node] == pytest.approx(outcome - others, abs=1e-6)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_many_turns_of_one_context_are_compared_with_each_other(before):
    """Whatever else there is: a second chain says 7.0 and hardly counts."""
    rng = random.Random(before)
    tree, parent = TurnTree(), ROOT
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=7.0) if before else None
    for _ in range(before):
        parent = tree.add_turn(parent, mean_nll=0.0).index
    outcomes = [float(rng.random() < 0.5) for _ in range(4000)]
    leaves = [tree.add_turn(parent, mean_nll=0.0, is_leaf=True, reward=each).index for each in outcomes[:300]]
    found = credited(tree, contexts=Contexts.SEPARATE)
    mean = statistics.fmean(outcomes[:300])
    for leaf, outcome in zip(leaves[:3], outcomes, strict=False):
        others = (300 * mean - outcome) / 299
        assert found.advantages[leaf] == pytest.approx(outcome - others, abs=1e-9 if not before else 0.03)


@pytest.mark.parametrize("grown", [random_talk, random_delegation])
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, NEW]))
def test_baselines_are_the_posterior_means_of_a_dense_model(grown, seed, words):
    """All contexts at once: a linear system with one unknown for each, edges n / D and outcomes 1 / U."""
    tree = grown(seed, words)
    rng = random.Random(seed)
    undecided = [1.0]
    for _ in range(5):
        undecided.append(undecided[-1] * rng.uniform(0.3, 0.95))
    found = credited(tree, undecided)
    for node in range(1, len(tree.nodes)):
        expected = dense_baseline(tree, node, undecided)
        if expected is None:
            assert found.baselines[node] is None
        else:
            assert found.baselines[node] == pytest.approx(expected, abs=1e-6)


def dense_baseline(tree: TurnTree, left_out: int, undecided: list[float]) -> float | None:
    """Posterior mean of the context of a turn, from a tree without this turn and all that follows it."""
    context = histories(tree)
    gone = {left_out}
    for node in tree.nodes[1:]:
        if node.parent in gone:
            gone.add(node.index)
    shares = falling(undecided)

    def share(depth: int) -> float:
        return shares[min(depth, len(shares) - 1)]

    left = [node for node in tree.nodes[1:] if node.index not in gone]
    if not any(node.is_leaf for node in left):
        return None
    number = {each: at for at, each in enumerate(sorted({context[node.index] for node in left} | {context[left_out]}))}
    system, right = np.zeros((len(number), len(number))), np.zeros(len(number))
    edges: dict[tuple[int, int], set[int]] = {}
    # The context of the turn itself is there too, though maybe nothing else was sampled in it.
    for node in [*left, tree.nodes[left_out]]:
        if node.parent != ROOT:
            edges.setdefault((context[node.parent], context[node.index]), set()).add(node.parent)
    for (before, after), draws in edges.items():
        depth = len(tree.path(min(draws))) - 1
        precision = len(draws) / (share(depth) - share(depth + 1))
        one, other = number[before], number[after]
        system[[one, other], [one, other]] += precision
        system[[one, other], [other, one]] -= precision
    for node in left:
        if node.is_leaf:
            precision = 1 / share(len(tree.path(node.index)) - 1)
            system[number[context[node.index]], number[context[node.index]]] += precision
            right[number[context[node.index]]] += precision * node.reward
    return float(np.linalg.solve(system, right)[number[context[left_out]]])


def test_a_sub_agents_context_at_two_depths_by_hand():
    """A sub-agent reads 9 after the main agent's first turn, in another chain after its second. U = 1, 0.6, 0.3.

    root -> 1 -> 2 (9): 1.0; root -> 3 -> 4 (main) -> 5 (9): 0.0; root -> 6 -> 7 (9): 0.5. Turns 1, 3 and 6 are copies.
    Turns 2 and 7 share a context; turn 5 has the same words before it, but the main agent has done more.
    Baseline of 2: 7 says 0.5 with variance U_1 = 0.6. Turn 5 says 0 with U_2 = 0.3, to the context of 4 with D_1 = 0.3,
    to the prompt with D_0 = 0.4, and down again with D_0 / 2, as 1 and 6 are two draws: with 1.2. That makes 1/3.
    For 5 nothing shares its context; 2 and 7 say 0.75 through all contexts before.
    """
    tree = TurnTree()
    first = say(tree, ROOT, 0, 1, before=BEGIN)
    say(tree, first, 9, 2, 1.0, before=BEGIN)
    second = say(tree, ROOT, 0, 1, before=BEGIN)
    say(tree, say(tree, second, 5, 1), 9, 2, 0.0, before=BEGIN)
    say(tree, say(tree, ROOT, 0, 1, before=BEGIN), 9, 3, 0.5, before=BEGIN)
    found = credited(tree, [1.0, 0.6, 0.3])
    assert found.peers == [0, 2, 1, 2, 0, 0, 2, 1]
    assert found.baselines[2] == pytest.approx(1 / 3)
    assert found.baselines[4:6] == pytest.approx([0.75, 0.75])
    assert found.values[1:] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5]


def test_chains_whose_loop_wrote_different_first_prompts_are_compared():
    tree = TurnTree()
    for clock, reward in ((1, 1.0), (2, 0.0), (3, 0.5)):
        say(tree, say(tree, ROOT, clock, 7, before=BEGIN), 8, 7, reward, before=BEGIN)
    assert credited(tree).values[0] == pytest.approx(0.5)
    assert credited(tree).baselines[1:] == pytest.approx([0.25, 0.25, 0.75, 0.75, 0.5, 0.5])


@pytest.mark.parametrize("grown", [random_talk, random_delegation])
@given(st.integers(0, 10**6), st.sampled_from([1, 2, NEW]), st.floats(-3, 3))
def test_what_comes_of_a_turn_never_moves_its_own_baseline(grown, seed, words, change):
    tree = grown(seed, words)
    before = credited(tree)
    rng = random.Random(seed)
    leaf = rng.choice(tree.leaves)
    tree.nodes[leaf].reward += change
    after = credited(tree)
    for node in tree.path(leaf):
        assert after.baselines[node] == before.baselines[node]


@given(st.integers(0, 10**6), st.sampled_from([1, 2, NEW]), st.floats(-3, 3), st.floats(0.1, 5))
def test_shifting_and_scaling_outcomes_shifts_and_scales_credit(seed, words, shift, scale):
    tree = random_talk(seed, words)
    before = credited(tree).advantages
    for leaf in tree.leaves:
        tree.nodes[leaf].reward = tree.nodes[leaf].reward * scale + shift
    expected = [None if each is None else each * scale for each in before]
    assert credited(tree).advantages == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 10**6))
def test_unknown_outcomes_are_left_out(seed):
    """A leaf without an outcome changes nothing but that its turn has no credit."""
    tree = random_tree(seed, [0.0, 1.0])
    before = credited(tree, contexts=Contexts.SEPARATE).advantages
    lost = tree.add_turn(ROOT, mean_nll=0.0).index
    tree.add_turn(lost, mean_nll=0.0, is_leaf=True)
    after = credited(tree, contexts=Contexts.SEPARATE).advantages
    assert after == [*before, None, None]


def test_weights_count_in_the_context_only():
    """Three turns of one context at the prompt: 1.0 with weight 3, 0.0 with weight 1; the third has (3 + 0) / 4."""
    tree = TurnTree()
    for reward in (1.0, 0.0, 0.0):
        tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=reward)
    grouping = group_contexts(tree, Contexts.SEPARATE)
    found = estimates(tree, grouping, [1.0], [node.reward for node in tree.nodes], weights=[1.0, 3.0, 1.0, 1.0])
    assert found.baselines == pytest.approx([None, 0.0, 0.75, 0.75])


def shrunk(**settings: Any) -> CreditConfig:
    return CreditConfig(scheme="shrunk", **{"contexts": Contexts.MERGED, **settings})


def test_chains_get_the_advantages_of_rloo_and_scaled_those_of_grpo():
    """Four turns each, two of six succeed: 1 - 1/5 and -2/5; z-scores sqrt(2) and -sqrt(1/2)."""
    tree = TurnTree()
    for chain in range(6):
        parent = ROOT
        for turn in range(4):
            output = SimpleNamespace(token_ids=[10 * chain + turn], log_probs=[-1.0])
            last = {"is_leaf": True, "reward": float(chain < 2)} if turn == 3 else {}
            said = Turn((Generation(0, [turn], output),))
            parent = tree.add_turn(parent, mean_nll=1.0, turn=said, **last).index
    centred = credit_of(tree, shrunk(normalize=Normalize.CENTER)).advantages
    assert centred[1:5] == pytest.approx([4 / 5] * 4)
    assert centred[9:] == pytest.approx([-2 / 5] * 16)
    scaled = credit_of(tree, shrunk()).advantages
    assert scaled[1:5] == pytest.approx([2**0.5] * 4, abs=1e-5)
    assert scaled[9:] == pytest.approx([-(0.5**0.5)] * 16, abs=1e-5)


@pytest.mark.parametrize("words", [1, 3, NEW])
@pytest.mark.parametrize("normalize", Normalize)
def test_the_estimator_reads_the_advantages_out_of_rows(words, normalize):
    settings = shrunk(normalize=normalize, mute_above=0.3)
    for seed in range(8):
        tree = random_talk(seed, words)
        tree.undecided = EVENLY
        rewards, mask = even_rows(tree, settings)
        config = {"atpo": {"credit": AtpoConfig(credit=settings).to_mapping()["credit"]}}
        advantages, _ = compute_atpo_advantage(rewards, mask, np.array(["uid"] * len(rewards)), config)
        expected = credit_of(tree, settings).advantages
        for row, leaf in enumerate(tree.leaves):
            for turn, node in enumerate(tree.path(leaf)):
                found = advantages[row, 3 * turn : 3 * turn + 2].tolist()
                assert found == pytest.approx([expected[node]] * 2, abs=1e-5)


@pytest.mark.parametrize("grown", [random_talk, random_delegation])
@given(st.integers(0, 10**6), st.sampled_from([1, 3, NEW]))
def test_differences_of_the_dump_make_the_advantages(grown, seed, words):
    tree = grown(seed, words)
    tree.undecided = EVENLY
    credit = credit_of(tree, shrunk(mute_above=0.3))
    plain = credited(tree)
    differ = len({tree.nodes[leaf].reward for leaf in tree.leaves}) > 1
    for node in range(1, len(tree.nodes)):
        (each,) = credit.notes["differences"][node]
        made = each["weight"] * each["scale"] * (each["value"] - each["baseline"])
        assert made == pytest.approx(credit.advantages[node], abs=1e-9)
        assert each["samples"] == plain.peers[node]
        if differ and plain.baselines[node] is not None:
            assert each["baseline"] == pytest.approx(plain.baselines[node], abs=1e-6)


def test_a_surprising_turn_is_muted():
    """p = 1/2 on both tokens of turn 1: squared score 1/2, twice what is allowed; turn 2 was certain."""
    tree = TurnTree()
    for log_probs, reward in (([math.log(0.5)] * 2, 1.0), ([0.0, 0.0], 0.0)):
        output = SimpleNamespace(token_ids=[1, 2], log_probs=log_probs)
        turn = Turn((Generation(0, [0], output),))
        tree.add_turn(ROOT, mean_nll=0.5, is_leaf=True, reward=reward, turn=turn)
    settings = shrunk(normalize=Normalize.NONE, mute_above=0.25)
    assert credit_of(tree, settings).advantages[1:] == pytest.approx([0.5, -1.0])
    for scheme in (CreditConfig(normalize=Normalize.CENTER), CreditConfig(normalize=Normalize.CENTER, mute_above=0.25)):
        less = 0.5 if scheme.mute_above else 1.0
        assert credit_of(tree, scheme).advantages[1:] == pytest.approx([0.5 * less, -0.5])


def test_rewards_of_tools_before_a_turn_are_not_its_merit():
    """Chains that share nothing: turn 1 of the first was given 1 by its tool, that of the second 0; usual is 1/2.

    Returns are 1 + 1 and 0. Turns 1: 2 - 0 and back. Later turns: 2 - 1/2, what is to come of it and the usual gain,
    against the other's 0; and 0 + 1/2 against 2.
    """
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.0, tool_reward=1.0)
    tree.add_turn(1, mean_nll=0.0, is_leaf=True, reward=1.0)
    tree.add_turn(ROOT, mean_nll=0.0)
    tree.add_turn(3, mean_nll=0.0, is_leaf=True, reward=0.0)
    settings = shrunk(contexts=Contexts.SEPARATE, normalize=Normalize.NONE, tool_rewards=1.0)
    assert credit_of(tree, settings).advantages[1:] == pytest.approx([2.0, 1.5, -2.0, -1.5])


def test_states_are_refused():
    with pytest.raises(ConfigError, match=r"contexts=states cannot work: .*scheme=shrunk.*contexts=merged"):
        credit_of(random_tree(0), shrunk(contexts=Contexts.STATES, advantage=AdvantageMode.DIFF_PARENT))


def test_weights_by_squared_score_move_the_baseline_to_surprising_turns():
    """Two turns of one context beside a third: p = 1/2 for the one that succeeded, 9/10 for the one that failed.

    Squared scores 1/4 and 1/100: the baseline of the third is (1/4) / (1/4 + 1/100) = 25/26, and 1/2 without weights.
    """
    tree = TurnTree()
    for p, reward in ((0.5, 1.0), (0.9, 0.0), (0.5, 0.0)):
        turn = Turn((Generation(0, [0], SimpleNamespace(token_ids=[1], log_probs=[math.log(p)])),))
        tree.add_turn(ROOT, mean_nll=-math.log(p), is_leaf=True, reward=reward, turn=turn)
    settings = shrunk(normalize=Normalize.NONE)
    assert credit_of(tree, settings).advantages[3] == pytest.approx(-0.5)
    weighted = shrunk(normalize=Normalize.NONE, baseline_weights=True)
    assert credit_of(tree, weighted).advantages[3] == pytest.approx(-25 / 26)


def test_the_mean_gradient_points_along_the_exact_one():
    """20,000 trees of a tabular agent, expanded by what other chains sampled; turns of one context share its weight."""
    scheme = find_scheme(AtpoConfig(credit=shrunk(contexts=Contexts.SEPARATE, normalize=Normalize.CENTER)))
    expansion, _ = ARMS["unbiased"]
    rng, undecided = random.Random(0), Undecided()
    total = np.zeros(len(PARAMETERS))
    for number in range(20_000):
        grown = sample(expansion, rng)
        grown.tree.undecided = undecided.shares
        if number % 50 == 0:
            undecided.add(grown.tree, contexts=Contexts.SEPARATE)
        weights = split_weights(grown.tree)
        advantages = scheme.credit(grown.tree).advantages
        total += summed(grown, [weight * (each or 0.0) for weight, each in zip(weights, advantages, strict=True)])
    _, gradient = exact()
    cosine = total @ gradient / np.linalg.norm(total) / np.linalg.norm(gradient)
    assert cosine > 0.999
    assert total @ gradient / 20_000 / (gradient @ gradient) == pytest.approx(1.0, abs=0.03)
