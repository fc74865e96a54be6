"""Split weights: by hand, in their limits, through the channel, and against an exact gradient."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.assets.tabular_agent import LOGITS, OUTCOMES, PARAMETERS, endings, exact
from tests.assets.tabular_estimates import ARMS, measure, sample
from tests.assets.trees import even_rows, tree_advantages
from verl_atpo.config import AdvantageMode, AtpoConfig, Backup, ConfigError, ExpansionConfig, Schedule
from verl_atpo.method.credit import node_values
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.method.expansion import select_turns, target_depths
from verl_atpo.schemes.split import row_advantages, split_advantages, split_weights
from verl_atpo.startup.presets import UNBIASED
from verl_atpo.tree.tree import ROOT, TurnTree

SPLIT = UNBIASED.credit


def branched() -> TurnTree:
    """Three chains, one of them branched twice at its second turn, and a fresh chain.

    slots: 1 -> {2: reward 1, 7: 0, 8: 0} and 3 -> 4: reward 1; pool: 5: 0 (the last initial chain), 6: 1 (fresh).
    """
    tree = TurnTree()
    first = tree.add_turn(ROOT, mean_nll=0.5).index
    tree.add_turn(first, mean_nll=0.5, is_leaf=True, reward=1.0)
    second = tree.add_turn(ROOT, mean_nll=0.5).index
    tree.add_turn(second, mean_nll=0.5, is_leaf=True, reward=1.0)
    tree.add_turn(ROOT, mean_nll=0.5, is_leaf=True, reward=0.0)
    tree.add_turn(ROOT, mean_nll=0.5, is_leaf=True, reward=1.0, round=1)
    for _ in range(2):
        tree.add_turn(first, mean_nll=0.5, is_leaf=True, reward=0.0, round=1)
    return tree


def known_values(tree: TurnTree) -> list[float]:
    return [value or 0.0 for value in node_values(tree, Backup.CHILD_MEAN)]


def test_weights_by_hand() -> None:
    third = 1 / 3
    expected = [1, third, third / 3, third, third, third / 2, third / 2, third / 3, third / 3]
    assert split_weights(branched()) == pytest.approx(expected)


def test_baselines_leave_the_own_stratum_out() -> None:
    """Values: slots 1/3 and 1, pool 1/2. Baselines: (1 + 1/2) / 2, (1/3 + 1/2) / 2, of the pool (1/3 + 1) / 2."""
    tree = branched()
    own = [1 / 3, 1, 1, 1, 0, 1, 0, 0]
    baselines = [3 / 4, 3 / 4, 5 / 12, 5 / 12, 2 / 3, 2 / 3, 3 / 4, 3 / 4]
    expected = [0.0, *(value - baseline for value, baseline in zip(own, baselines, strict=True))]
    assert split_advantages(tree, known_values(tree)) == pytest.approx(expected)


def test_rows_share_what_a_turn_gets() -> None:
    """Turn 1 is in 3 of 6 rows: 6 * (1/3) * (1/3 - 3/4) / 3."""
    tree = branched()
    rows = row_advantages(tree, known_values(tree))
    assert rows[1] == pytest.approx(6 * (1 / 3) * (1 / 3 - 3 / 4) / 3)
    assert rows[7] == pytest.approx(6 * (1 / 9) * (0 - 3 / 4))


def test_chains_get_leave_one_out_baselines() -> None:
    """Without branches: every chain's outcome minus the mean of the others (RLOO), weight 1 in its row."""
    tree = TurnTree()
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0]
    for reward in rewards:
        tree.add_turn(ROOT, mean_nll=0.1, is_leaf=True, reward=reward)
    expected = [reward - (2 - reward) / 4 for reward in rewards]
    assert row_advantages(tree, known_values(tree))[1:] == pytest.approx(expected)


def test_one_initial_chain_and_no_chain() -> None:
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=0.1, is_leaf=True, reward=1.0)
    assert row_advantages(tree, [1.0, 1.0]) == [0.0, 1.0]
    tree.add_turn(ROOT, mean_nll=0.1, is_leaf=True, reward=0.0, round=1)
    assert row_advantages(tree, [0.5, 1.0, 0.0])[1:] == [1.0, -1.0]
    with pytest.raises(ValueError, match="no initial chain"):
        split_weights(TurnTree())


def test_the_estimator_reads_them_from_the_rows() -> None:
    """Rows of turns of two tokens with an observed one between; `center` leaves the scale as it is."""
    tree = branched()
    rewards, masks = even_rows(tree, SPLIT)
    torch.testing.assert_close(rewards.sum(dim=1), torch.tensor([tree.nodes[leaf].reward for leaf in tree.leaves]))
    found, _ = compute_atpo_advantage(rewards, masks, np.array(["a"] * len(rewards)), {"atpo": UNBIASED})
    expected = row_advantages(tree, known_values(tree))
    assert tree_advantages(tree, SPLIT)[1:] == pytest.approx(expected[1:])
    for row, leaf in enumerate(tree.leaves):
        for turn, node in enumerate(tree.path(leaf)):
            assert found[row, 3 * turn : 3 * turn + 2].tolist() == pytest.approx([expected[node]] * 2, abs=1e-5)
    assert found[masks == 0].abs().max() == 0


def test_targets_come_from_the_other_chains_alone() -> None:
    """Others: NLL 0.5 at depth 2 in both, 0.9 at depth 3 in one: 0.5 against 0.45, then the penalty decides."""
    tree = TurnTree()
    chains = []
    for nlls in ([0.1, 0.5, 0.9], [0.1, 0.5], [0.1]):
        parent, chain = ROOT, []
        for depth, nll in enumerate(nlls):
            ends = depth == len(nlls) - 1
            parent = tree.add_turn(parent, mean_nll=nll, is_leaf=ends, reward=0.0 if ends else None).index
            chain.append(parent)
        chains.append(chain)
    assert target_depths(tree, chains[:2], 4, penalty=0.06) == [2, 3, 2, 3]
    assert target_depths(tree, [chains[2]], 2, penalty=0.05) == []
    # The last chain is the pool's. For chain 0 only chain 1 speaks: depth 2. For chain 1 only chain 0: depth 3, to
    # which chain 1 never came, so a fresh chain is grown.
    config = ExpansionConfig(
        initial_chains=3, branches_per_round=3, rounds=1, strategy="other_chains", schedule=Schedule.ROUNDS
    )
    assert select_turns(tree, 3, config, random.Random(0)) == [chains[0][1], ROOT, chains[0][1]]


def test_a_turn_does_not_decide_on_its_own_context() -> None:
    """Metamorphic: whatever a chain sampled from a context on, its target depths are the same."""
    rng = random.Random(0)
    config, _ = ARMS["unbiased"]
    grown = sample(config, rng).tree
    chains = [grown.path(node.index) for node in grown.nodes if node.is_leaf and node.round == 0][:-1]
    before = target_depths(grown, chains[1:], 3, 0.05)
    for node in chains[0]:
        grown.nodes[node].mean_nll = 99.0
    assert target_depths(grown, chains[1:], 3, 0.05) == before


def test_exact_gradient_is_that_of_finite_differences(monkeypatch) -> None:
    assert sum(probability for _, probability in endings()) == pytest.approx(1.0)
    assert {path for path, _ in endings()} == set(OUTCOMES)
    value, gradient = exact()
    for number in (0, 4, 9):
        context, turn = PARAMETERS[number]
        monkeypatch.setitem(LOGITS, context, {**LOGITS[context], turn: LOGITS[context][turn] + 1e-6})
        assert (exact()[0] - value) / 1e-6 == pytest.approx(gradient[number], abs=1e-5)
        monkeypatch.undo()


def test_unbiased_and_what_breaks_it() -> None:
    """1,500 trees an arm; `python -m benchmarks.bias.unbiased` has 20,000 and every single deviation.

    With 15 components the largest deviation of an unbiased estimate is about 2 standard errors; 4 would be one chance
    in a thousand. The seed is fixed, so there is no chance here.
    """
    value, _ = exact()
    found = {arm: measure(arm, 1500, seed=0) for arm in ("unbiased", "turns selected by their own NLL", "tree")}
    unbiased = found.pop("unbiased")
    assert abs(unbiased["value"] - value) < 2 * unbiased["error"]
    assert unbiased["worst"] < 4
    assert unbiased["cosine"] > 0.998
    assert unbiased["scale"] == pytest.approx(1, abs=0.05)
    for biased in found.values():
        assert biased["worst"] > 8
        assert abs(biased["value"] - value) > 4 * biased["error"]


def test_settings_that_do_not_go_with_split_weights() -> None:
    with pytest.raises(ConfigError, match=r"credit.*weights='split'.*backup=child_mean"):
        AtpoConfig.from_mapping({"credit": {"weights": "split"}})
    assert SPLIT.advantage is AdvantageMode.DIFF_GLOBAL
    assert AtpoConfig.from_mapping(UNBIASED.to_mapping()) == UNBIASED
