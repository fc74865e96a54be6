"""A slow loss that loops over turns, and random batches for it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from verl.trainer.ppo.core_algos import agg_loss
from verl.workers.config import ActorConfig

from verl_atpo.method.loss import clip_range

Batch = dict[str, torch.Tensor]


def turns_of_row(mask_row: list[int]) -> Iterator[tuple[int, int]]:
    """Start and end of every maximal run of ones."""
    start = None
    for position, sampled in enumerate([*mask_row, 0]):
        if sampled and start is None:
            start = position
        elif not sampled and start is not None:
            yield start, position
            start = None


def loop_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str,
    config: ActorConfig,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The definition, one turn after the other: what the vectorised loss is measured against.

    Turns' ratios are computed apart and joined once a row, so that no turn costs a pass over the whole matrix.
    """
    rows = []
    for row, mask_row in enumerate(response_mask.int().tolist()):
        pieces, done = [], 0
        for start, end in turns_of_row(mask_row):
            token = log_prob[row, start:end]
            mean = (token.detach() - old_log_prob[row, start:end]).mean()
            pieces += [token.new_ones(start - done), (token - token.detach() + mean).clamp(max=10.0).exp()]
            done = end
        rows.append(torch.cat([*pieces, log_prob.new_ones(len(mask_row) - done)]))
    ratio = torch.stack(rows)
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(*clip_range(config)))
    return agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info), {}


def make_batch(rows: int, tokens: int, turns: int, device: str, dtype: torch.dtype) -> Batch:
    """Random rows of about ``turns`` turns, two thirds of the tokens sampled, the rest observations."""
    generator = torch.Generator().manual_seed(0)
    cuts = torch.rand(rows, 2 * turns - 1, generator=generator).add_(0.5).cumsum(dim=1)
    cuts = (cuts / cuts[:, -1:] * tokens).long()
    stretch = torch.searchsorted(cuts, torch.arange(tokens).expand(rows, tokens).contiguous(), right=True)
    old_log_prob = -torch.rand(rows, tokens, generator=generator) * 3
    batch = {
        "old_log_prob": old_log_prob.to(dtype),
        "log_prob": (old_log_prob + 0.02 * torch.randn(rows, tokens, generator=generator)).to(dtype),
        "advantages": torch.randn(rows, 1, generator=generator).expand(rows, tokens).to(dtype).contiguous(),
        "response_mask": stretch % 2 == 0,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}
