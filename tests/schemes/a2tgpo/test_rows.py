"""From a tree's information gains through token rewards to the estimator ``a2tgpo`` and the loss ``a2tgpo``."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from verl.workers.config import ActorConfig

from tests.assets.trees import random_tree, scaled
from verl_atpo.config import AtpoConfig, ConfigError, Normalize
from verl_atpo.method.channel import TurnCredit, is_marked, write_row
from verl_atpo.method.estimator import compute_atpo_advantage, estimator_named
from verl_atpo.method.loss import compute_policy_loss_atpo
from verl_atpo.method.scheme import find_scheme
from verl_atpo.schemes.a2tgpo.loss import compute_policy_loss_a2tgpo
from verl_atpo.schemes.a2tgpo.settings import InformationGainConfig

compute_a2tgpo_advantage = estimator_named("a2tgpo")
SETTINGS = InformationGainConfig(weight=0.7, discount=0.9)


def rows_of(seed: int, sampled: tuple[int, int] = (1, 4)):
    """A random tree as rows: its credit, spans, masks and rewards; one-token turns and observations among them."""
    tree, rng = random_tree(seed), random.Random(seed)
    paths = [tree.path(leaf) for leaf in tree.leaves]
    log_probs = [None, *(None if rng.random() < 0.2 else -rng.uniform(0, 5) for _ in tree.nodes[1:])]
    lengths = [rng.randint(*sampled) for _ in tree.nodes]
    observed = [rng.randint(1, 3) for _ in tree.nodes]
    scheme = find_scheme(AtpoConfig(of_schemes={"information_gain": SETTINGS}), "a2tgpo")
    credit = scheme.credit(tree, paths, SimpleNamespace(log_probs=log_probs, costs=None))
    spans, masks, rewards = [], [], []
    for path, turns in zip(paths, credit.rows, strict=True):
        at, mask, own = 0, [], []
        for node in path:
            own.append((at, at + lengths[node]))
            mask += [1] * lengths[node] + [0] * (0 if node == path[-1] else observed[node])
            at = len(mask)
        spans.append(own)
        rewards.append(write_row(turns, own, tree.nodes[path[-1]].reward, len(mask)))
        masks.append(mask + [0] * (len(rewards[-1]) - len(mask)))
    return tree, credit, spans, masks, rewards


def padded(lists: list[list[float]], dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(each, dtype=dtype) for each in lists], batch_first=True)


@pytest.mark.parametrize("seed", range(40))
def test_the_estimator_gives_what_the_pure_core_says(seed):
    tree, credit, spans, masks, rewards = rows_of(seed)
    uids = np.array(["a"] * len(masks), dtype=object)
    found, _ = compute_a2tgpo_advantage(padded(rewards, torch.float32), padded(masks, torch.int64), uids, {})
    outcomes = scaled([tree.nodes[leaf].reward for leaf in tree.leaves], Normalize.ZSCORE)
    for row, own in enumerate(spans):
        for turn, (start, end) in enumerate(own):
            expected = outcomes[row] + credit.rows[row][turn].advantage
            assert found[row, start:end].tolist() == pytest.approx([expected] * (end - start), abs=2e-5)
            if turn < len(own) - 1:
                assert found[row, end].item() == pytest.approx(credit.rows[row][turn].after, abs=1e-5)
                found[row, end] = 0.0
        assert (found[row, : len(masks[row])][torch.tensor(masks[row]) == 0] == 0).all()
        assert (found[row, len(masks[row]) :] == 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_row_sums_to_its_outcome_and_is_marked(seed):
    tree, _, _, _, rewards = rows_of(seed)
    for leaf, row in zip(tree.leaves, rewards, strict=True):
        assert is_marked(row) and sum(row) == pytest.approx(tree.nodes[leaf].reward, abs=1e-6)
        assert row == [float(np.float32(each)) for each in row]


def test_masked_turns_do_not_move_the_others():
    """``shared_turns=once`` masks the first turn: its clip range is nobody's, the second turn's advantage stays."""
    credits = [TurnCredit(0.5, 0.1), TurnCredit(-0.25, 0.2), TurnCredit(0.0)]
    row = write_row(credits, [(0, 3), (4, 7), (8, 10)], 1.0, 12)
    mask = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0], [1] * 12])
    found, _ = compute_a2tgpo_advantage(torch.tensor([row, [0.0] * 12]), mask, ["a", "a"], {})
    assert found[0].tolist() == pytest.approx([0.0] * 4 + [0.75] * 3 + [0.2, 1.0, 1.0, 0.0, 0.0], abs=1e-5)
    assert found[1].tolist() == pytest.approx([-1.0] * 12, abs=1e-5)


def test_turns_that_the_response_limit_cut_off_leave_the_last_one_that_is_there_its_own():
    credits = [TurnCredit(0.5, 0.1), TurnCredit(-0.25, 0.2), TurnCredit(0.0)]
    row = write_row(credits, [(0, 5), (6, 9), (11, 13)], 1.0, 10)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 1, 1, 1, 0] + [0] * (len(row) - 10), [1] * len(row)])
    found, _ = compute_a2tgpo_advantage(torch.tensor([row, [0.0] * len(row)]), mask, ["a", "a"], {})
    assert found[0, :10].tolist() == pytest.approx([1.5] * 5 + [0.1, 0.75, 0.75, 0.75, 0.0], abs=1e-5)


def test_plain_chains_are_grpos():
    rewards, mask = torch.zeros(4, 6), torch.tensor([[1, 1, 0, 1, 1, 0]] * 4)
    rewards[:, 4] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    ours, _ = compute_a2tgpo_advantage(rewards, mask, ["a"] * 4, {})
    theirs, _ = compute_atpo_advantage(rewards, mask, ["a"] * 4, {})
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ConfigError, match="adv_estimator=a2tgpo"):
        compute_a2tgpo_advantage(rewards, mask, ["a"] * 4, {"use_kl_in_reward": True})


CONFIG = ActorConfig(strategy="fsdp2", use_dynamic_bsz=True, rollout_n=1, clip_ratio_low=0.1, clip_ratio_high=0.2)


def batch(seed: int = 0, rows: int = 4, tokens: int = 12):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, tokens, generator=generator) < 0.6
    old = torch.randn(rows, tokens, generator=generator)
    new = (old + 0.3 * torch.randn(rows, tokens, generator=generator)).requires_grad_()
    advantages = torch.randn(rows, tokens, generator=generator)
    return old, new, advantages, mask


def slow_loss(old, new, advantages, mask) -> torch.Tensor:
    """Row by row, turn by turn."""
    rows = []
    for row in range(len(mask)):
        losses, at = [], 0
        while at < mask.shape[1]:
            if not mask[row, at]:
                at += 1
                continue
            end = at
            while end < mask.shape[1] and mask[row, end]:
                end += 1
            wider = 1 + (float(advantages[row, end]) if end < mask.shape[1] else 0.0)
            difference = new[row, at:end] - old[row, at:end]
            ratio = (difference.detach().mean() + difference - difference.detach()).exp()
            clipped = ratio.clamp(1 - 0.1 * wider, 1 + 0.2 * wider)
            own = advantages[row, at:end]
            losses.append(torch.max(-own * ratio, -own * clipped))
            at = end
        if losses:
            rows.append(torch.cat(losses).mean())
    return torch.stack(rows).mean()


@pytest.mark.parametrize("seed", range(10))
def test_every_turn_has_its_own_clip_range(seed):
    old, new, advantages, mask = batch(seed)
    advantages = torch.where(mask, advantages, advantages.clamp(-0.9, 0.9))
    given = {"loss_agg_mode": "seq-mean-token-mean", "config": CONFIG}
    ours, _ = compute_policy_loss_a2tgpo(old, new, advantages, mask, **given)
    (ours_grad,) = torch.autograd.grad(ours, new)
    expected = slow_loss(old, new, advantages, mask)
    (expected_grad,) = torch.autograd.grad(expected, new)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(ours_grad, expected_grad)


def test_without_gains_it_is_the_loss_atpo_and_that_one_looks_at_no_masked_token():
    old, new, advantages, mask = batch()
    plain, _ = compute_policy_loss_atpo(old, new, advantages, mask, config=CONFIG)
    own, metrics = compute_policy_loss_a2tgpo(old, new, torch.where(mask, advantages, 0.0), mask, config=CONFIG)
    torch.testing.assert_close(plain, own, rtol=0, atol=0)
    wide, wider = compute_policy_loss_a2tgpo(old, new, torch.where(mask, advantages, 0.9), mask, config=CONFIG)
    assert wider["actor/pg_clipfrac"] < metrics["actor/pg_clipfrac"] and wide != own


def test_turns_of_equal_advantages_stay_two():
    """Turn 1's ratio e^0.15 = 1.16 is inside its wider range (1 + 0.2 x 1.3), turn 2's is clipped at 1 + 0.2 x 0.7."""
    old, mask = torch.zeros(1, 5), torch.tensor([[1, 1, 0, 1, 0]])
    new = torch.tensor([[0.15, 0.15, 0.0, 0.15, 0.0]])
    advantages = torch.tensor([[1.0, 1.0, 0.3, 1.0, -0.3]])
    loss, _ = compute_policy_loss_a2tgpo(old, new, advantages, mask, loss_agg_mode="token-mean", config=CONFIG)
    assert loss.item() == pytest.approx(-(2 * 1.161834 + 1.14) / 3, abs=1e-5)
