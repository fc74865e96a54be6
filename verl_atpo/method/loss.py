"""The policy loss ``atpo`` (the paper's Agentic Turn-based Policy Optimization): PPO's with one ratio per turn.

A turn is a maximal run of ones in the response mask. With x_t = log pi(y_t) - log pi_old(y_t), turn k has the ratio

    s_k = exp(mean of x_t over the tokens t of turn k),

which every token of the turn uses in the GSPO-token form s_k * pi(y_t) / sg[pi(y_t)] (arXiv 2507.18071, eq. 14, with
the turn for the sequence): the value is s_k and the gradient goes through the token's own log-probability. A response
of one turn makes it GSPO; turns of one token make it PPO without its dual clip. It needs no tree: any advantages will
do.

Shapes: rows R, response tokens T, turns of a row K (number 0: tokens before the first turn). Only torch
is imported here, so that a plugin can load it while verl is importing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

Bound: TypeAlias = Any
"""Bound of a ratio: a float, or a tensor (R, T)."""

Ranges: TypeAlias = Callable[[Any, "Turns", torch.Tensor], tuple[Bound, Bound]]
"""Makes the bounds of the ratio from verl's config, the turns and the advantages."""

MAX_LOG_RATIO = 10.0
"""Ceiling of log s_k, against overflow."""


def compute_policy_loss_atpo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
    *,
    ranges: Ranges | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Clipped turn-level policy loss, with the signature of verl's policy losses.

    What masked positions hold (even NaN) changes nothing. Without a single sampled token the loss is 0 with a graph.

    Args:
        old_log_prob: (R, T) float, log-probabilities of the sampled tokens under the old policy, nats.
        log_prob: (R, T) float, under the current policy, nats; gradients flow here only.
        advantages: (R, T) float.
        response_mask: (R, T), 1 on sampled tokens; int, float or bool.
        loss_agg_mode: any of verl's ``agg_loss``; the paper's is ``seq-mean-token-mean``.
        config: verl's ``ActorConfig``, for :func:`clip_range`; ``global_batch_info`` goes to ``agg_loss``.
        rollout_is_weights: (R, T) float, weights of verl's rollout correction; multiplied into the loss.
        ranges: bounds of the ratio from config, turns and all of ``advantages``; ``None`` for :func:`clip_range`.

    Returns:
        The loss, a scalar, and metrics. A turn counts as clipped if its first token is.

    Raises:
        ValueError: no config; a log-probability or advantage that is not finite; what ``agg_loss`` raises.
    """
    if config is None:
        raise ValueError("config=None: expected verl's ActorConfig, which holds the clip range.")
    mask_RT = response_mask.bool()
    log_ratio_RT = torch.where(mask_RT, log_prob - old_log_prob, 0.0)
    advantages_RT = torch.where(mask_RT, advantages, 0.0)
    turns = Turns(mask_RT, log_ratio_RT.dtype)
    low, high = ranges(config, turns, advantages) if ranges is not None else clip_range(config)
    turn_log_ratio_RT = turns.mean(log_ratio_RT.detach())

    ratio_RT = (log_ratio_RT - log_ratio_RT.detach() + turn_log_ratio_RT).clamp(max=MAX_LOG_RATIO).exp()
    losses_RT, clipped_RT = _surrogate(ratio_RT, advantages_RT, low, high)
    if rollout_is_weights is not None:
        losses_RT = losses_RT * torch.where(mask_RT, rollout_is_weights, 0.0)
    loss = _aggregate(losses_RT, turns, loss_agg_mode, config.global_batch_info)
    finite_RT = (log_ratio_RT + advantages_RT).isfinite()
    metrics, bad_row = _metrics(log_ratio_RT.detach(), clipped_RT, finite_RT, turns)
    if bad_row is not None:
        raise ValueError(_not_finite(bad_row, old_log_prob, log_prob, advantages, mask_RT))
    return loss, metrics


def _surrogate(
    ratio_RT: torch.Tensor, advantages_RT: torch.Tensor, low: Bound, high: Bound
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute max(-A s, -A clip(s)) and its clipped places in half the memory: only the bound on A's side matters."""
    bounded_RT = torch.where(advantages_RT > 0, ratio_RT.clamp(max=high), ratio_RT.clamp(min=low))
    return -advantages_RT * bounded_RT, (bounded_RT != ratio_RT) & (advantages_RT != 0)


class Turns:
    """The turns of a batch of rows: the maximal runs of ones in a mask.

    No shape depends on the data (a row has at most (T + 1) // 2 turns), so nothing here waits for the device.

    Attributes:
        mask_RT: float, 1 on sampled tokens.
        opens_RT: bool, the first token of every turn.
        number_RT: int, 1, 2, ... along the row; observation tokens have that of the turn before, or 0.
        lengths_RK: float, tokens of each turn by its number; K is (T + 1) // 2 + 1.

    Examples:
        >>> turns = Turns(torch.tensor([[True, True, False, True]]), torch.float32)
        >>> turns.number_RT.tolist(), turns.lengths_RK.tolist()
        ([[1, 1, 1, 2]], [[0.0, 2.0, 1.0]])
        >>> turns.mean(torch.tensor([[1.0, 3.0, 0.0, 5.0]])).tolist()
        [[2.0, 2.0, 2.0, 5.0]]
    """

    def __init__(self, mask_RT: torch.Tensor, dtype: torch.dtype) -> None:
        self.mask_RT = mask_RT.to(torch.promote_types(dtype, torch.float32))
        self.opens_RT = mask_RT.clone()
        self.opens_RT[:, 1:] &= ~mask_RT[:, :-1]
        self.number_RT = self.opens_RT.cumsum(dim=1, dtype=torch.int32)
        self.lengths_RK = self.sums(self.mask_RT)

    def mean(self, values_RT: torch.Tensor) -> torch.Tensor:
        """Mean over its turn, at every token, (R, T); ``values_RT`` are 0 where the mask is.

        Added up in float32 at least.
        """
        means_RK = self.sums(values_RT) / self.lengths_RK.clamp(min=1)
        return means_RK.gather(1, self.number_RT)

    def sums(self, values_RT: torch.Tensor) -> torch.Tensor:
        """(R, K) sum over each turn by its number; ``values_RT`` are 0 where the mask is."""
        values_RT = values_RT.to(self.mask_RT.dtype)
        rows, tokens = values_RT.shape
        return values_RT.new_zeros((rows, (tokens + 1) // 2 + 1)).scatter_add_(1, self.number_RT, values_RT)


def clip_range(config: Any) -> tuple[Bound, Bound]:
    """Bounds of the importance ratio, [1 - clip_ratio_low, 1 + clip_ratio_high]."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return 1 - low, 1 + high


def _aggregate(losses_RT: torch.Tensor, turns: Turns, mode: str, batch_info: dict[str, Any]) -> torch.Tensor:
    """verl's ``agg_loss``, but 0 instead of 0 / 0 for a micro-batch without a sampled token."""
    from verl.trainer.ppo.core_algos import agg_loss

    info = dict(batch_info)
    if (info.get("dp_size") or 1) == 1:  # with more, verl insists on the global counts
        if info.get("batch_num_tokens") is None:
            info["batch_num_tokens"] = turns.lengths_RK.sum().clamp(min=1)
        if info.get("global_batch_size") is None:
            info["global_batch_size"] = (turns.number_RT[:, -1] > 0).sum().clamp(min=1)
    return agg_loss(loss_mat=losses_RT, loss_mask=turns.mask_RT, loss_agg_mode=mode, **info)


@torch.no_grad()
def _metrics(
    log_ratio_RT: torch.Tensor, clipped_RT: torch.Tensor, finite_RT: torch.Tensor, turns: Turns
) -> tuple[dict[str, float], int | None]:
    """Metrics of the micro-batch, and its first row that is not finite; one transfer from the device for all.

    Args:
        log_ratio_RT: float, 0 where the mask is.
        clipped_RT: bool, false where the mask is.
        finite_RT: bool, true where the mask is.
        turns: turns of the micro-batch.
    """
    turns_R, finite_R = turns.number_RT[:, -1], finite_RT.all(dim=1)
    tokens, all_turns, rows = turns.lengths_RK.sum(), turns_R.sum(), turns_R.count_nonzero()
    metrics = {
        "actor/pg_clipfrac": clipped_RT.count_nonzero() / tokens.clamp(min=1),
        "actor/ppo_kl": -log_ratio_RT.sum() / tokens.clamp(min=1),
        "actor/atpo/turns_per_row": all_turns / rows.clamp(min=1),
        "actor/atpo/turn_clipfrac": (clipped_RT & turns.opens_RT).count_nonzero() / all_turns.clamp(min=1),
    }
    row = finite_R.cumprod(dim=0).sum()  # rows before the first one that is not finite
    *values, first = torch.stack([value.float() for value in (*metrics.values(), row)]).tolist()
    # The dual clip does not exist here; recipes and dashboards expect the name.
    named = {**dict(zip(metrics, values, strict=True)), "actor/pg_clipfrac_lower": 0.0}
    return named, int(first) if first < len(finite_R) else None


def _not_finite(row: int, old: torch.Tensor, new: torch.Tensor, advantages: torch.Tensor, mask_RT: torch.Tensor) -> str:
    """Make the message for the first sampled token of a row whose numbers are not finite."""
    found = torch.stack([old[row], new[row], advantages[row]]).detach()
    token = int((~found.isfinite().all(dim=0) & mask_RT[row]).nonzero()[0])
    was, now, advantage = found[:, token].tolist()
    return (
        f"row {row} of the micro-batch, token {token}, has old log-prob {was:g}, log-prob {now:g}, "
        f"advantage {advantage:g}: "
        "expected finite numbers. The model has diverged, or the engine sampled a token that the trainer gives no "
        "probability: lower the learning rate, compare temperature, top_k and top_p of rollout and trainer, or go back "
        "to the checkpoint before."
    )
