"""One call of a policy loss: its config, and what it returns."""

from __future__ import annotations

from typing import Any

import torch
from verl.workers.config import ActorConfig


def actor(low: float | None = 0.003, high: float | None = 0.004, **more: Any) -> ActorConfig:
    return ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio_low=low, clip_ratio_high=high, **more
    )


def run(loss_fn: Any, tensors: dict[str, torch.Tensor], mode: str, config: ActorConfig, **more: Any) -> tuple:
    """Loss, gradient and metrics of one call."""
    log_prob = tensors["log_prob"].clone().requires_grad_()
    loss, metrics = loss_fn(**{**tensors, "log_prob": log_prob}, loss_agg_mode=mode, config=config, **more)
    loss.backward()
    return loss.detach(), log_prob.grad, metrics
