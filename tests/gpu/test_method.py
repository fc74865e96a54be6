"""Loss and estimator on an accelerator, against slow oracles in float64 on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.assets.devices import each_device, needs_cuda
from tests.assets.loss_calls import actor, run
from tests.assets.loss_oracle import loop_loss, make_batch
from tests.assets.transfers import TO_HOST, calls, transfers
from tests.assets.trees import padded_rows, random_tree, rows_of, scaled, tree_advantages
from verl_atpo.config import AdvantageMode, Backup, CreditConfig, Normalize
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.method.loss import compute_policy_loss_atpo

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Of the largest entry."""
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
TRANSFERS = {"loss": 1, "estimator": 2}
"""Times the host waits: the loss once for all its metrics, the estimator for its two checks of the rewards."""


@each_device
@each_dtype
@pytest.mark.parametrize("mode", ["seq-mean-token-mean", "token-mean"])
def test_the_loss_is_the_slow_loops(device, dtype, mode):
    tensors = make_batch(8, 4096, 20, device, dtype)
    exact = {key: value.cpu().double() if value.is_floating_point() else value.cpu() for key, value in tensors.items()}
    ours = run(compute_policy_loss_atpo, tensors, mode, actor(0.5, 0.6))  # so wide that rounding moves none across
    wanted = run(loop_loss, exact, mode, actor(0.5, 0.6))
    assert ours[0].device.type == device and ours[1].dtype is dtype
    assert wanted[1].count_nonzero() > 1000
    for found, right in zip(ours[:2], wanted[:2], strict=True):
        assert float((found.cpu().double() - right).abs().max() / right.abs().max()) < TOLERANCE[dtype]


def trees_of_a_batch(normalize: Normalize) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, torch.Tensor]:
    """Rewards, mask and uids of forty random trees, and the advantages that they have node by node."""
    table = []
    for seed in range(40):
        tree = random_tree(seed)
        rows = rows_of(tree, CreditConfig(normalize=normalize), seed)
        leaves = [tree.nodes[leaf].reward for leaf in tree.leaves]
        for leaf, reward in zip(tree.leaves, scaled(leaves, normalize), strict=True):
            tree.nodes[leaf].reward = reward
        expected = tree_advantages(tree, CreditConfig(Backup.CHILD_SOFTMAX, AdvantageMode.VALUE, Normalize.NONE))
        table += [(str(seed), row, [expected[turn] if turn else 0.0 for turn in row.turn_of]) for row in rows]
    rewards, mask = padded_rows([row for _, row, _ in table])
    wanted = torch.tensor([line + [0.0] * (rewards.shape[1] - len(line)) for _, _, line in table])
    return rewards, mask, np.array([uid for uid, _, _ in table]), wanted


@each_device
@pytest.mark.parametrize("normalize", [Normalize.ZSCORE, Normalize.CENTER])
def test_the_estimator_is_the_trees_own(device, normalize):
    rewards, mask, uids, wanted = trees_of_a_batch(normalize)
    config = {"atpo": {"credit": {"normalize": normalize.value}}}
    ours, _ = compute_atpo_advantage(rewards.to(device), mask.to(device), uids, config)
    assert ours.device.type == device
    torch.testing.assert_close(ours.cpu(), wanted, rtol=1e-5, atol=2e-5)


@each_device
def test_the_estimator_wants_more_than_bfloat16(device):
    rewards, mask, uids, _ = trees_of_a_batch(Normalize.ZSCORE)
    with pytest.raises(ValueError, match=r"rewards of type torch\.bfloat16"):
        compute_atpo_advantage(rewards.to(device, torch.bfloat16), mask.to(device), uids, {})


@each_device
@pytest.mark.parametrize("what", TRANSFERS)
def test_the_host_waits_as_often_as_is_said(device, what):
    found = transfers(calls(device)[what], device)[TO_HOST]
    if device == "cuda" and what == "estimator":  # its kernels copy sizes of their own
        assert found <= 2 * TRANSFERS[what]
    else:
        assert found == TRANSFERS[what]


@needs_cuda
def test_the_profiler_sees_copies():
    there = torch.zeros(3, device="cuda")
    assert transfers(lambda: [there.cpu(), torch.ones(3).to("cuda")], "cuda") == {TO_HOST: 1, "host to device": 1}
