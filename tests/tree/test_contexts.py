"""Equal contexts: by hand, against a slow oracle over whole trajectories, and through the channel."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.equal_contexts import PROMPT, X, Y, Z, chain, example, say
from tests.assets.trees import even_rows, tree_advantages
from verl_atpo.config import AdvantageMode, Backup, Contexts, CreditConfig, Normalize
from verl_atpo.method.credit import context_values, node_values
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.startup.presets import TREE
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, TurnTree


def credit(contexts: Contexts, mode: AdvantageMode, normalize: Normalize = Normalize.CENTER) -> CreditConfig:
    return CreditConfig(Backup.CHILD_MEAN, mode, normalize, contexts=contexts)


def test_what_belongs_together():
    merged = group_contexts(example(), Contexts.MERGED)
    assert merged.copies == [[0], [1, 3, 5], [2], [4], [6], [7]]
    assert merged.siblings == [[1, 3, 5, 7], [2, 4], [6]]
    separate = group_contexts(example(), Contexts.SEPARATE)
    assert separate.copies == [[index] for index in range(8)]
    assert separate.siblings == [[1, 3, 5, 7], [2], [4], [6]]
    states = group_contexts(example(), Contexts.STATES)
    assert states.copies == separate.copies
    assert states.siblings == merged.siblings


def test_a_state_is_what_was_read_last_and_a_context_the_whole_path():
    tree = example()
    fifth = chain(tree, (PROMPT, Z), ([5], Y), reward=0.0)  # another first turn, the same answer
    assert group_contexts(tree, Contexts.STATES).siblings[1] == [2, 4, fifth[1]]
    assert group_contexts(tree, Contexts.MERGED).siblings[1] == [2, 4]
    # 7 said the same as the fifth chain's first turn, and ended there.
    assert group_contexts(tree, Contexts.MERGED).copies[5] == [7, fifth[0]]


def test_a_context_that_lost_tokens_is_another():
    tree = TurnTree()
    for dropped in (0, 1, 1):
        say(tree, say(tree, ROOT, PROMPT, X), [5], Y, dropped, is_leaf=True, reward=0.0)
    assert group_contexts(tree, Contexts.MERGED).siblings == [[1, 3, 5], [2], [4, 6]]


def test_values_are_means_over_all_copies():
    # X: mean of 1, 0 and 1, three times; root: (3 * 2/3 + 0) / 4. Behind [5] 1 and 0 follow, behind [6] 1.
    values = node_values(example(), Backup.CHILD_MEAN, contexts=Contexts.MERGED)
    assert values == pytest.approx([0.5, 2 / 3, 1, 2 / 3, 0, 2 / 3, 1, 0])
    grouping = group_contexts(example(), Contexts.MERGED)
    assert context_values(example(), values, Backup.CHILD_MEAN, grouping)[1:] == pytest.approx(
        [0.5, 0.5, 0.5, 0.5, 0.5, 1, 0.5]
    )
    # States pool baselines only: a chain's turns are worth its own outcome.
    assert node_values(example(), Backup.CHILD_MEAN, contexts=Contexts.STATES) == [0.5, 1, 1, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("contexts", "mode", "expected"),
    [
        # A chain's turns are worth the same, so that only the first has an advantage.
        (Contexts.SEPARATE, AdvantageMode.DIFF_PARENT, [0.5, 0, -0.5, 0, 0.5, 0, -0.5]),
        (Contexts.MERGED, AdvantageMode.DIFF_PARENT, [1 / 6, 0.5, 1 / 6, -0.5, 1 / 6, 0, -0.5]),
        (Contexts.MERGED, AdvantageMode.DIFF_GLOBAL, [1 / 6, 0.5, 1 / 6, -0.5, 1 / 6, 0.5, -0.5]),
        (Contexts.MERGED, AdvantageMode.DIFF_LOCALGLOBAL, [1 / 3, 1, 1 / 3, -1, 1 / 3, 0.5, -1]),
        (Contexts.MERGED, AdvantageMode.DIFF_CONTEXT, [1 / 6, 0.5, 1 / 6, -0.5, 1 / 6, 0.5, -0.5]),
        (Contexts.STATES, AdvantageMode.DIFF_PARENT, [0.5, 0.5, -0.5, -0.5, 0.5, 0, -0.5]),
        (Contexts.STATES, AdvantageMode.DIFF_LOCALGLOBAL, [1, 1, -1, -1, 1, 0.5, -1]),
    ],
)
def test_advantages_by_hand(contexts, mode, expected):
    assert tree_advantages(example(), credit(contexts, mode))[1:] == pytest.approx(expected)


def test_the_preset_gives_chains_that_share_nothing_their_outcome_and_no_difference_twice():
    """Six chains of four turns, two of them succeed: (1 - 1/3) / sqrt(2)/3 = sqrt(2) for each of their turns."""
    tree = TurnTree()
    for number in range(6):
        turns = [([5 + turn], [100 * number + turn]) for turn in range(4)]
        chain(tree, *turns, reward=float(number < 2))
    advantages = tree_advantages(tree, TREE.credit)
    assert advantages[1:5] == pytest.approx([2**0.5] * 4, abs=1e-5)
    assert advantages[9:13] == pytest.approx([-(0.5**0.5)] * 4, abs=1e-5)


@pytest.mark.parametrize("contexts", list(Contexts))
def test_one_baseline_shrinks_the_value_of_a_context_to_the_baseline_of_the_turn_before(contexts):
    """1 X -[5]-> 2 Y: 1.0, expanded to 3 Z: 0.0; 4 Z: 0.0.

    V_1 = 1/2 and V_root = 1/4, which is the baseline of 1 and 4. Two turns were sampled behind 1, so theirs is
    (1/4 + 1/2) / 2 = 3/8.
    """
    tree = TurnTree()
    chain(tree, (PROMPT, X), ([5], Y), reward=1.0)
    say(tree, 1, [5], Z, is_leaf=True, reward=0.0, round=1)
    chain(tree, (PROMPT, Z), reward=0.0)
    found = tree_advantages(tree, credit(contexts, AdvantageMode.DIFF_CONTEXT))
    assert found[1:] == pytest.approx([1 / 4, 5 / 8, -3 / 8, -1 / 4])


def test_localglobal_with_states_is_outcome_plus_turn_relative_to_its_state():
    """GiGPO's sum, with z-scores: 1 and 0 with mean and deviation 0.5 make +-1, and so does half of 1 around 0.5."""
    found = tree_advantages(example(), credit(Contexts.STATES, AdvantageMode.DIFF_LOCALGLOBAL, Normalize.ZSCORE))
    assert found[1:] == pytest.approx([2, 2, -2, -2, 2, 1, -2], abs=1e-5)


def test_a_branched_tree_and_a_chain_that_came_to_the_same_context():
    """1 X -[5]-> {2 Y: 1.0, 5 Z: 0.5 (branch)}; 3 X -[5]-> 4 Z: 0.0."""
    tree = TurnTree()
    first, _ = chain(tree, (PROMPT, X), ([5], Y), reward=1.0)
    chain(tree, (PROMPT, X), ([5], Z), reward=0.0, mean_nll=math.log(2))
    say(tree, first, [5], Z, is_leaf=True, reward=0.5, round=1)
    # X: (1 + 0 + 0.5) / 3 for both copies. The two Z are copies too, but ended: each keeps its reward.
    assert node_values(tree, Backup.CHILD_MEAN, contexts=Contexts.MERGED) == pytest.approx([0.5, 0.5, 1, 0.5, 0, 0.5])
    assert node_values(tree, Backup.LEAF_MEAN, contexts=Contexts.MERGED) == pytest.approx([0.5, 0.5, 1, 0.5, 0, 0.5])
    # Z of the chain has NLL ln 2, so weights 1:2:1 -> (1 + 2 * 0 + 0.5) / 4; X the same: 1 / 3 and 2 / 3 of it.
    softmax = node_values(tree, Backup.CHILD_SOFTMAX, contexts=Contexts.MERGED)
    assert softmax == pytest.approx([0.375, 0.375, 1, 0.375, 0, 0.5])
    found = tree_advantages(tree, credit(Contexts.MERGED, AdvantageMode.DIFF_PARENT))
    assert found[1:] == pytest.approx([0, 0.5, 0, -0.5, 0])


def test_a_value_that_is_not_known_is_left_out_and_never_0():
    tree = example()
    tree.nodes[4].reward = None
    dead = say(tree, ROOT, PROMPT, X)  # its branch died: what its copies are worth says nothing of it
    values = node_values(tree, Backup.CHILD_MEAN, contexts=Contexts.MERGED)
    assert [values[index] for index in (1, 3, 4, 5, dead)] == [1, None, None, 1, None]
    assert values[ROOT] == pytest.approx(2 / 3)  # X, X and Z
    contexts = context_values(tree, values, Backup.CHILD_MEAN, group_contexts(tree, Contexts.MERGED))
    assert contexts[2] == contexts[4] == 1
    assert tree_advantages(tree, credit(Contexts.MERGED, AdvantageMode.DIFF_LOCALGLOBAL))[4] is None


@pytest.mark.parametrize("contexts", Contexts)
def test_turns_that_end_at_once_are_compared_with_each_other(contexts):
    tree = TurnTree()
    for tokens, reward in ((X, 1.0), (X, 1.0), (Y, 0.0), (Z, 1.0)):
        chain(tree, (PROMPT, tokens), reward=reward)
    found = tree_advantages(tree, credit(contexts, AdvantageMode.DIFF_PARENT))
    assert found[1:] == [0.25, 0.25, -0.75, 0.25]


def test_rewards_of_tools_count_from_the_turn_on_that_made_the_call():
    """X's call gave 0.5 in both chains. V(X) = 0.5 + (1 + 0) / 2, and where the second turns stand 0.5 is to come."""
    tree = TurnTree()
    for tokens, reward in ((Y, 1.0), (Z, 0.0)):
        first = say(tree, ROOT, PROMPT, X, tool_reward=0.5)
        say(tree, first, [5], tokens, is_leaf=True, reward=reward)
    for mode, expected in (
        (AdvantageMode.DIFF_PARENT, [0, 0.5, 0, -0.5]),
        (AdvantageMode.DIFF_GLOBAL, [0, 0.5, 0, -0.5]),  # 0.5 had been collected before a second turn: 1 + 0.5 - 1
    ):
        settings = CreditConfig(Backup.CHILD_MEAN, mode, Normalize.NONE, tool_rewards=1.0, contexts=Contexts.MERGED)
        assert tree_advantages(tree, settings)[1:] == pytest.approx(expected)


def speaking(seed: int, words: int) -> TurnTree:
    """Up to six chains of up to four turns, some branched, that choose among few words and observations."""
    rng = random.Random(seed)
    tree = TurnTree()

    def grow(parent: int) -> None:
        while True:
            ends = rng.random() < 0.4
            reward = rng.choice([0.0, 1.0, 0.25]) if ends else None
            observed = PROMPT if parent == ROOT else [100 + rng.randrange(2)]
            parent = say(tree, parent, observed, [rng.randrange(words)], is_leaf=ends, reward=reward)
            if ends:
                return

    for _ in range(rng.randint(1, 6)):
        grow(ROOT)
    for _ in range(rng.randint(0, 4)):
        grow(rng.choice([node.parent for node in tree.nodes[1:]]))
    return tree


def said(tree: TurnTree, path: list[int]) -> list[tuple[list[int], list[int]]]:
    return [(tree.turn(index).observed_ids, tree.turn(index).token_ids) for index in path]


@given(st.integers(0, 10**6))
def test_merged_values_are_means_over_trajectories_that_begin_alike(seed):
    """The slow way: each node's value, and its context's, from whole trajectories, without a tree."""
    tree = speaking(seed, words=2)
    rows = [(said(tree, tree.path(leaf)), tree.nodes[leaf].reward) for leaf in tree.leaves]

    def mean_after(begun: list, observed: list[int] | None) -> float:
        at = len(begun)
        alike = [(row, reward) for row, reward in rows if row[:at] == begun and len(row) > at]
        rewards = [reward for row, reward in alike if observed is None or row[at][0] == observed]
        return sum(rewards) / len(rewards)

    grouping = group_contexts(tree, Contexts.MERGED)
    values = node_values(tree, Backup.LEAF_MEAN, contexts=grouping)
    contexts = context_values(tree, values, Backup.LEAF_MEAN, grouping)
    for node in tree.nodes:
        own = said(tree, tree.path(node.index))
        expected = node.reward if node.is_leaf else mean_after(own, None)
        assert values[node.index] == pytest.approx(expected)
        if node.index != ROOT:
            assert contexts[node.index] == pytest.approx(mean_after(own[:-1], own[-1][0]))


@given(st.integers(0, 10**6), st.sampled_from(list(Backup)), st.sampled_from(list(AdvantageMode)))
def test_where_nothing_is_equal_merging_changes_nothing(seed, backup, mode):
    tree = speaking(seed, words=2)
    for node in tree.nodes[1:]:
        say_so = SimpleNamespace(token_ids=[node.index])
        node.turn = Turn((Generation(0, [1000 + node.parent], say_so),))
    found = [
        tree_advantages(tree, CreditConfig(backup, mode, contexts=contexts))
        for contexts in (Contexts.SEPARATE, Contexts.MERGED)
    ]
    assert found[1][1:] == pytest.approx(found[0][1:])


@given(st.integers(0, 10**6))
def test_copies_share_out_what_they_had(seed):
    """On-policy the gradient through equal turns is their advantages' sum: in chains, merging leaves it alone."""
    tree = speaking(seed, words=2)
    chains = TurnTree()
    for leaf in tree.leaves:
        chain(chains, *said(tree, tree.path(leaf)), reward=tree.nodes[leaf].reward)
    apart, merged = (
        node_values(chains, Backup.CHILD_MEAN, contexts=contexts) for contexts in (Contexts.SEPARATE, Contexts.MERGED)
    )
    groups = group_contexts(chains, Contexts.MERGED).copies
    for copies in groups:
        inner = [index for index in copies if not chains.nodes[index].is_leaf]
        assert sum(merged[index] for index in inner) == pytest.approx(sum(apart[index] for index in inner))


@pytest.mark.parametrize("normalize", [Normalize.CENTER, Normalize.ZSCORE, Normalize.NONE])
@pytest.mark.parametrize(
    "mode", [AdvantageMode.DIFF_PARENT, AdvantageMode.DIFF_LOCALGLOBAL, AdvantageMode.DIFF_CONTEXT]
)
@pytest.mark.parametrize("contexts", [Contexts.MERGED, Contexts.STATES])
def test_the_estimator_reads_them_out_of_rows(contexts, mode, normalize):
    """Turns of two tokens, an observation of one between them; every row adds up to its outcome."""
    tree, settings = example(), credit(contexts, mode, normalize)
    rewards, mask = even_rows(tree, settings)
    torch.testing.assert_close(rewards.sum(dim=1), torch.tensor([1.0, 0.0, 1.0, 0.0]))
    config = {"atpo": {"credit": {"advantage": mode.value, "normalize": normalize.value, "contexts": contexts.value}}}
    advantages, _ = compute_atpo_advantage(rewards, mask, np.array(["uid"] * 4), config)
    expected = tree_advantages(tree, settings)
    for row, leaf in enumerate(tree.leaves):
        for turn, node in enumerate(tree.path(leaf)):
            assert advantages[row, 3 * turn : 3 * turn + 2].tolist() == pytest.approx([expected[node]] * 2, abs=1e-5)
