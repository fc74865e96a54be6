"""The policy loss ``a2tgpo``: the loss ``atpo`` with a clip range of its own for every turn (arXiv 2605.06200)."""

from __future__ import annotations

from typing import Any

import torch

from verl_atpo.method.loss import Bound, Turns, clip_range, compute_policy_loss_atpo


def compute_policy_loss_a2tgpo(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """Clipped turn-level policy loss, for the estimator ``a2tgpo``.

    Turn k is clipped to [1 - low (1 + d_k), 1 + high (1 + d_k)], d_k being what ``advantages`` hold on the first token
    after the turn, where the mask is 0; a turn without such a token has 0. Turns are runs of the mask, so neighbours
    of equal advantages stay two. All else, arguments included, is as in
    :func:`~verl_atpo.method.loss.compute_policy_loss_atpo`.
    """
    return compute_policy_loss_atpo(*args, **kwargs, ranges=_ranges_of_turns)


def _ranges_of_turns(config: Any, turns: Turns, advantages: torch.Tensor) -> tuple[Bound, Bound]:
    """Compute the bounds of the importance ratio, (R, T), 1 + d_k times as wide as those of the config."""
    low, high = clip_range(config)
    wider_RT = 1.0 + _after(turns, advantages)
    return 1 - (1 - low) * wider_RT, 1 + (high - 1) * wider_RT


def _after(turns: Turns, values_RT: torch.Tensor) -> torch.Tensor:
    """Spread the values on the first token after each turn over the turn's tokens; 0 where there is no such token."""
    after_RT = torch.nn.functional.pad(values_RT[:, 1:], (0, 1))
    sampled_after_RT = torch.nn.functional.pad(turns.mask_RT[:, 1:], (0, 1)) > 0
    closes_RT = (turns.mask_RT > 0) & ~sampled_after_RT
    return turns.sums(torch.where(closes_RT, after_RT, 0.0)).gather(1, turns.number_RT)
