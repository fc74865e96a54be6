"""Count of the times that loss and estimator make the host wait for a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from verl.workers.config import ActorConfig

from tests.assets.loss_oracle import make_batch
from verl_atpo.method.channel import MARK
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.method.loss import compute_policy_loss_atpo

TO_HOST, TO_DEVICE = "device to host", "host to device"
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount"}
"""Operations whose result, or the size of it, the host has to know."""


class _Waits(TorchDispatchMode):
    """Counts the operations that would need a copy to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        boolean = func.overloadpacket.__name__.startswith("index") and any(
            isinstance(each, torch.Tensor) and each.dtype is torch.bool
            for part in args if isinstance(part, list) for each in part
        )  # fmt: skip
        self.count += boolean or func.overloadpacket.__name__ in WAITS
        return func(*args, **(kwargs or {}))


def transfers(run: Callable[[], object], device: str) -> dict[str, int]:
    """Copies of each direction in one call of ``run``; those to a device are seen only where there is one."""
    run()  # whatever is made once
    if device == "cpu":
        to_list, lists = torch.Tensor.tolist, []  # the one that torch does not dispatch
        with _Waits() as seen, mock.patch.object(torch.Tensor, "tolist", lambda it: lists.append(it) or to_list(it)):
            run()
        return {TO_HOST: seen.count + len(lists)}
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    names = Counter(event.name for event in profile.events() if event.name.startswith("Memcpy"))
    return {
        way: sum(count for name, count in names.items() if mark in name)
        for way, mark in ((TO_HOST, "DtoH"), (TO_DEVICE, "HtoD"))
    }


def calls(device: str, dtype: torch.dtype = torch.float32) -> dict[str, Callable[[], object]]:
    """Loss, forward and backward, and estimator, on tensors that lie on the device."""
    batch = make_batch(8, 2048, 12, device, dtype)
    config = ActorConfig(strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio_low=0.003,
                         clip_ratio_high=0.004)  # fmt: skip
    rewards = torch.zeros(8, 2048, device=device)
    rewards[:, 1], rewards[:, 2], rewards[:, 3], rewards[:, -1] = 0.25, MARK, -MARK, torch.arange(8, device=device)
    uids = np.repeat(["a", "b"], 4)
    return {
        "loss": lambda: _loss(batch, config),
        "estimator": lambda: compute_atpo_advantage(rewards, batch["response_mask"], uids, {}),
    }


def _loss(batch: dict[str, torch.Tensor], config: ActorConfig) -> None:
    """Forward and backward."""
    log_prob = batch["log_prob"].detach().requires_grad_()
    tensors = {**batch, "log_prob": log_prob}
    loss, _ = compute_policy_loss_atpo(**tensors, loss_agg_mode="seq-mean-token-mean", config=config)
    loss.backward()
