"""The estimator: rewards shaped by a tree, or plain outcomes, to an advantage per token."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from tests.assets.trees import credit_of, padded_rows, random_tree, rows_of, scaled, tree_advantages
from verl_atpo.config import AdvantageMode, Backup, ConfigError, CreditConfig, Normalize
from verl_atpo.method import estimator as advantage
from verl_atpo.method.channel import TurnCredit, write_row
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.tree.tree import ROOT, TurnTree

seeds = st.integers(0, 10**6)
modes = st.sampled_from(list(AdvantageMode))
scales = st.sampled_from(list(Normalize))


def estimate(rewards, mask, uids, mode=AdvantageMode.VALUE, normalize=Normalize.ZSCORE) -> torch.Tensor:
    config = {"atpo": {"credit": {"advantage": mode.value, "normalize": normalize.value}}}
    rewards, mask = torch.as_tensor(rewards, dtype=torch.float32), torch.as_tensor(mask)
    advantages, returns = compute_atpo_advantage(rewards, mask, np.array(uids, dtype=object), config)
    assert advantages.dtype == torch.float32
    assert returns is advantages
    assert (advantages[mask == 0] == 0).all()
    return advantages


def close(ours: torch.Tensor, wanted: list[list[float]], atol: float = 2e-5) -> None:
    torch.testing.assert_close(ours, torch.tensor(wanted, dtype=ours.dtype), rtol=1e-5, atol=atol)


# One tree: root 0.5 -> turn A 0.75 -> two leaves, 1.0 and 0.5; and a one-turn leaf, 0.0.
# Responses: A A o L / A A o o L / B B. Outcomes 1.0, 0.5, 0.0: mean 0.5, population std sqrt(0.5 / 3).
TREE_SPANS = [[(0, 2), (3, 4)], [(0, 2), (4, 5)], [(0, 2)]]
TREE_MASK = [[1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]]


def by_hand() -> TurnTree:
    tree = TurnTree()
    shared = tree.add_turn(ROOT, mean_nll=0.0).index
    tree.add_turn(shared, mean_nll=0.0, is_leaf=True, reward=1.0)
    tree.add_turn(shared, mean_nll=0.0, is_leaf=True, reward=0.5)
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=0.0)
    return tree


def tree_rewards(
    mode: AdvantageMode = AdvantageMode.VALUE, normalize: Normalize = Normalize.ZSCORE
) -> list[list[float]]:
    """The rows of that tree; its root's value by leaf mean is 0.5."""
    credit = credit_of(by_hand(), CreditConfig(Backup.LEAF_MEAN, mode, normalize))
    rows = zip(credit.rows, TREE_SPANS, credit.outcomes, strict=True)
    return [write_row(turns, spans, outcome, 7) for turns, spans, outcome in rows]


@pytest.mark.parametrize(
    ("mode", "a", "long", "short", "single"),
    [
        (AdvantageMode.VALUE, 0.25, 0.5, 0.0, -0.5),  # minus the mean outcome
        (AdvantageMode.DIFF_PARENT, 0.25, 0.25, -0.25, -0.5),
        (AdvantageMode.DIFF_GLOBAL, 0.25, 0.5, 0.0, -0.5),
        (AdvantageMode.DIFF_LOCALGLOBAL, 0.5, 0.75, -0.25, -1.0),
    ],
)
@pytest.mark.parametrize(("normalize", "scale"), [(Normalize.ZSCORE, (0.5 / 3) ** 0.5), (Normalize.CENTER, 1.0)])
def test_a_tree_by_hand(mode, a, long, short, single, normalize, scale):
    wanted = [[a, a, 0, long, 0, 0, 0], [a, a, 0, 0, short, 0, 0], [single, single, 0, 0, 0, 0, 0]]
    close(
        estimate(tree_rewards(mode, normalize), TREE_MASK, ["t"] * 3, mode, normalize),
        [[value / scale for value in row] for row in wanted],
    )


def test_without_normalisation_the_value_is_the_raw_one():
    wanted = [[0.75, 0.75, 0, 1.0, 0, 0, 0], [0.75, 0.75, 0, 0, 0.5, 0, 0], [0.0] * 7]
    rewards = tree_rewards(normalize=Normalize.NONE)
    close(estimate(rewards, TREE_MASK, ["t"] * 3, normalize=Normalize.NONE), wanted)


def test_a_trajectory_of_several_rows_counts_once():
    """Outcomes 1 and 0, the first one's in three rows: mean 0.5, deviation 0.5; counted by rows 0.75 and 0.43."""
    parts = [write_row([TurnCredit(each)], [(0, 4)], 1.0, 5, counts=each == 3) for each in (1, 2, 3)]
    other = write_row([TurnCredit(-1.0)], [(0, 4)], 0.0, 5)
    ours = estimate([*parts, other], [[1, 1, 1, 1, 0]] * 4, ["t"] * 4)
    close(ours, [[2.0 * each] * 4 + [0.0] for each in (1, 2, 3, -1)])
    assert [sum(row) for row in (*parts, other)] == pytest.approx([1.0, 1.0, 1.0, 0.0])
    close(
        estimate([*parts, other], [[1, 1, 1, 1, 0]] * 4, ["a", "b", "t", "t"])[2:],
        [[6.0] * 4 + [0.0], [-2.0] * 4 + [0.0]],
    )


def test_chains_by_hand():
    # Outcomes 1.0 and 0.0 on the last token, which here is an observation: every turn gets its row's.
    rewards, mask = [[0, 0, 0, 1.0], [0, 0, 0.0, 0]], [[1, 0, 1, 0], [1, 1, 1, 0]]
    close(estimate(rewards, mask, ["c", "c"]), [[1, 0, 1, 0], [-1, -1, -1, 0]])
    # diff_parent: the first turn against the root, 0.5; the second against the first, which is worth the same.
    close(
        estimate(rewards, mask, ["c", "c"], AdvantageMode.DIFF_PARENT, Normalize.NONE),
        [[0.5, 0, 0, 0], [-0.5, -0.5, -0.5, 0]],
    )


@settings(deadline=None)
@given(seeds, st.sampled_from(list(Backup)), modes, scales, st.integers(1, 4))
def test_write_then_estimate_is_the_trees_own_advantage(seed, backup, mode, normalize, trees):
    """Oracle: node by node in pure Python, leaves normalised first, over a shuffled batch of trees."""
    table = []
    for tree_seed in range(seed, seed + trees):
        tree = random_tree(tree_seed)
        rows = rows_of(tree, CreditConfig(backup, mode, normalize), tree_seed)
        leaves = [tree.nodes[leaf].reward for leaf in tree.leaves]
        for leaf, reward in zip(tree.leaves, scaled(leaves, normalize), strict=True):
            tree.nodes[leaf].reward = reward
        expected = tree_advantages(tree, CreditConfig(backup, mode, Normalize.NONE))
        table += [(str(tree_seed), row, [expected[turn] if turn else 0.0 for turn in row.turn_of]) for row in rows]
    np.random.default_rng(seed).shuffle(table)
    rewards, mask = padded_rows([row for _, row, _ in table])
    ours = estimate(rewards, mask, [uid for uid, _, _ in table], mode, normalize)
    close(ours, [wanted + [0.0] * (ours.shape[1] - len(wanted)) for _, _, wanted in table])


@settings(deadline=None)
@given(seeds, modes)
def test_masking_shared_turns_changes_nothing_for_the_others(seed, mode):
    """With ``shared_turns=once`` a row may begin with masked turns; its own turns keep their advantages."""
    rows = rows_of(random_tree(seed), CreditConfig(advantage=mode), seed)
    rewards, mask = padded_rows(rows)
    everything = estimate(rewards, mask, ["t"] * len(rows), mode)
    seen: set[int] = set()
    for line, row in zip(mask, rows, strict=True):
        line[: len(row.turn_of)] *= torch.tensor([turn not in seen for turn in row.turn_of]).long()
        seen.update(row.path)
    torch.testing.assert_close(estimate(rewards, mask, ["t"] * len(rows), mode), everything * mask)


@settings(deadline=None)
@given(seeds, modes, scales)
def test_padding_other_groups_and_row_order_change_nothing(seed, mode, normalize):
    credit = CreditConfig(Backup.CHILD_MEAN, mode, normalize)
    rows = rows_of(random_tree(seed), credit, seed)
    rewards, mask = padded_rows(rows)
    alone = estimate(rewards, mask, ["t"] * len(rows), mode, normalize)
    more = rows_of(random_tree(seed + 1), credit)
    rewards, mask = padded_rows([*more, *rows[::-1]], extra=3)
    padding = torch.zeros(1, rewards.shape[1])
    together = estimate(
        torch.cat([rewards, padding]),
        torch.cat([mask, padding.long()]),
        ["other"] * len(more) + ["t"] * len(rows) + ["padding-row"],
        mode,
        normalize,
    )
    ours = together[len(more) : -1].flip(0)
    torch.testing.assert_close(ours[:, : alone.shape[1]], alone, rtol=1e-5, atol=1e-6)
    assert (ours[:, alone.shape[1] :] == 0).all()
    assert (together[-1] == 0).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0, -2.0])), min_size=1, max_size=12))
def test_chains_are_verls_grpo(rows):
    """Groups of any size, one of them verl's special case of a single row."""
    rng = np.random.default_rng(len(rows))
    mask = torch.tensor(rng.random((len(rows), 9)) < 0.6).long()
    mask[:, 0] = 1
    rewards = torch.zeros(len(rows), 9)
    rewards[:, -1] = torch.tensor([reward for _, reward in rows])
    uids = np.array([f"uid-{uid}" for uid, _ in rows], dtype=object)
    wanted, _ = compute_grpo_outcome_advantage(rewards.double(), mask, uids)
    # All equal: ours is 0, verl's is rounding divided by the epsilon.
    ours = estimate(rewards, mask, uids, normalize=Normalize.ZSCORE_SAMPLE)
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_tree_without_expansion_is_grpo():
    tree, outcomes = TurnTree(), [1.0, 0.0, 0.25, 1.0, 0.0]
    for chain, reward in enumerate(outcomes):
        parent = ROOT
        for _ in range(chain):
            parent = tree.add_turn(parent, mean_nll=0.3 * chain).index
        tree.add_turn(parent, mean_nll=0.1, is_leaf=True, reward=reward)
    rewards, mask = padded_rows(rows_of(tree, CreditConfig(normalize=Normalize.ZSCORE_SAMPLE)))
    plain = torch.zeros_like(rewards)
    plain[:, -1] = torch.tensor(outcomes)
    uids = np.array(["p"] * 5, dtype=object)
    wanted, _ = compute_grpo_outcome_advantage(plain, mask, uids)
    for rows in (rewards, plain):
        ours = estimate(rows, mask, uids, normalize=Normalize.ZSCORE_SAMPLE)
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", list(AdvantageMode))
@pytest.mark.parametrize("normalize", [Normalize.ZSCORE, Normalize.ZSCORE_SAMPLE, Normalize.CENTER])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.3, -1 / 3])
def test_all_equal_rewards_teach_exactly_nothing(mode, normalize, reward):
    for seed in range(5):
        rows = rows_of(random_tree(seed + 3, rewards=[reward]), CreditConfig(Backup.CHILD_SOFTMAX, mode, normalize))
        uids = ["t"] * len(rows)
        if len(rows) > 1:
            assert (estimate(*padded_rows(rows), uids, mode, normalize) == 0).all()
            chains = torch.zeros(len(rows), 5)
            chains[:, 3] = reward
            assert (estimate(chains, torch.ones(len(rows), 5).int(), uids, mode, normalize) == 0).all()


def test_a_group_that_lost_its_other_rows_does_not_explode():
    # Only one leaf of the tree is left: its turns have advantages, but there is no spread to divide by.
    assert (estimate(tree_rewards()[:1], TREE_MASK[:1], ["t"]) == 0).all()
    sample = tree_rewards(normalize=Normalize.ZSCORE_SAMPLE)[:1]
    assert estimate(sample, TREE_MASK[:1], ["t"], normalize=Normalize.ZSCORE_SAMPLE)[0, 0] == pytest.approx(
        0.25, rel=1e-5
    )


def test_responses_of_one_and_two_tokens_have_all_their_credit():
    """A leaf of one token (outcome 1), one of two (0.5), and one with two turns of one token (0): root 0.5."""
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=1.0)
    tree.add_turn(ROOT, mean_nll=0.0, is_leaf=True, reward=0.5)
    first = tree.add_turn(ROOT, mean_nll=0.0)
    tree.add_turn(first.index, mean_nll=0.0, is_leaf=True, reward=0.0)
    mode, none = AdvantageMode.DIFF_LOCALGLOBAL, Normalize.NONE
    credit = credit_of(tree, CreditConfig(Backup.CHILD_MEAN, mode, none))
    credit_rows = (credit.rows, [[(0, 1)], [(0, 2)], [(0, 1), (2, 3)]], credit.outcomes)
    rows = [write_row(turns, own, outcome, own[-1][1]) for turns, own, outcome in zip(*credit_rows, strict=True)]
    assert [sum(row) for row in rows] == [1.0, 0.5, 0.0]
    width = max(map(len, rows))
    mask = [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    ours = estimate(
        [row + [0.0] * (width - len(row)) for row in rows],
        [row + [0] * (width - 3) for row in mask],
        ["t"] * 3,
        mode,
        none,
    )
    close(ours[:, :3], [[1.0, 0, 0], [0, 0, 0], [-1.0, 0, -0.5]])


def test_a_large_common_offset_does_not_eat_the_differences():
    # 10000.1 is 10000.0996 in float32; the row makes up for it on its last token.
    rewards = [write_row([TurnCredit(each)], [(0, 1)], 10000.05 + each, 6) for each in (-0.05, 0.05)]
    ours = estimate(rewards, [[1, 0, 0, 0, 0, 0]] * 2, ["t"] * 2, normalize=Normalize.ZSCORE)
    torch.testing.assert_close(ours[:, 0], torch.tensor([-1.0, 1.0]), rtol=1e-4, atol=0)


def test_rewards_of_the_users_own_on_single_tokens_are_a_rows_outcome():
    ours = estimate([[1.0, 0, 0], [0, 0.25, 0.25]], [[1, 1, 1]] * 2, ["t", "t"], normalize=Normalize.CENTER)
    assert ours.tolist() == [[0.25] * 3, [-0.25] * 3]


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.int64, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_advantages_are_never_cut_to_the_type_of_the_rewards(dtype, result):
    rewards = torch.tensor([[0, 1], [0, 0], [0, 0]], dtype=dtype)
    config = {"atpo": {"credit": {"normalize": "center"}}}
    ours, _ = compute_atpo_advantage(rewards, torch.ones(3, 2), ["t"] * 3, config)
    assert ours.dtype is result
    assert ours[:, 0].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_rewards_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="row 0 has the token-level reward nan"):
        estimate([[0.1, float("nan"), 0.3]], [[1, 1, 1]], ["t"])
    with pytest.raises(ValueError, match="expected the uid of every row"):
        compute_atpo_advantage(torch.zeros(1, 3), torch.ones(1, 3))


@pytest.mark.parametrize(
    "wrap", [dict, OmegaConf.create, lambda settings: SimpleNamespace(**settings)], ids=["dict", "DictConfig", "object"]
)
def test_settings_in_any_container(wrap):
    rewards, mask = torch.tensor(tree_rewards()), torch.tensor(TREE_MASK)

    def first_token(settings):
        return compute_atpo_advantage(rewards, mask, ["t"] * 3, wrap(settings))[0][0, 0].item()

    assert first_token({"atpo": {"credit": {"normalize": "none"}}, "use_kl_in_reward": False}) == pytest.approx(0.25)
    assert first_token({"adv_estimator": "atpo"}) == pytest.approx(0.25 / (0.5 / 3) ** 0.5, rel=1e-5)
    with pytest.raises(ConfigError, match=r"use_kl_in_reward=True .* actor_rollout_ref.actor.use_kl_loss=True"):
        first_token({"use_kl_in_reward": True})
    with pytest.raises(ConfigError, match=r"algorithm.atpo.credit.normalise is not a setting"):
        first_token({"atpo": {"credit": {"normalise": "none"}}})


@pytest.mark.parametrize("normalize", ["zscore", "zscore_sample", "center"])
def test_verls_switch_for_dr_grpo_is_obeyed(normalize):
    settings = AlgoConfig(adv_estimator="atpo", norm_adv_by_std_in_grpo=False)
    algorithm = {"atpo": {"credit": {"normalize": normalize}}, "norm_adv_by_std_in_grpo": False}
    rewards, mask = torch.tensor(tree_rewards()), torch.tensor(TREE_MASK)
    for config in (algorithm, settings):
        ours, _ = compute_atpo_advantage(rewards, mask, ["t"] * 3, config)
        assert ours[0, 0].item() == pytest.approx(0.25)


def test_verls_own_settings_object_and_none():
    rewards, mask = torch.tensor(tree_rewards()), torch.tensor(TREE_MASK)
    default, _ = compute_atpo_advantage(rewards, mask, ["t"] * 3)
    ours, _ = compute_atpo_advantage(rewards, mask, ["t"] * 3, AlgoConfig(adv_estimator="atpo"), unknown_extra=1)
    torch.testing.assert_close(ours, default)


def test_plain_chains_say_once_what_turns_the_tree_on(caplog):
    advantage._warn_of_plain_chains.cache_clear()
    with caplog.at_level(logging.WARNING, logger="verl_atpo.method.estimator"):
        estimate(tree_rewards(), TREE_MASK, ["t"] * 3)
        assert not caplog.records
        for _ in range(2):
            estimate([[0, 1.0]], [[1, 1]], ["c"])
    assert len(caplog.records) == 1
    assert "+atpo=tree" in caplog.text
    assert "agent_loop_manager_class=verl_atpo.rollout.TreeAgentLoopManager" in caplog.text
