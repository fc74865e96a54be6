"""The policy loss ``atpo``: PPO's clipped surrogate with one importance ratio per turn (paper: turn-level policy loss).

A turn is a maximal run of ones in the response mask. With x_t = log pi(y_t) - log pi_old(y_t), turn k has the ratio

    s_k = exp(mean of x_t over the tokens t of turn k),

which every token of the turn uses in the GSPO-token form s_k * pi(y_t) / sg[pi(y_t)] (arXiv 2507.18071, eq. 14, with
the turn for the sequence): the value is s_k and the gradient goes through the token's own log-probability. A response
of one turn makes it GSPO; turns of one token make it PPO. It needs no tree: any advantages will do.

Shapes: rows R, response tokens T. Only torch is imported here, so that a plugin can load it while verl is importing.
"""

from __future__ import annotations

from typing import Any

import torch

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
) -> tuple[torch.Tensor, dict[str, float]]:
    """Clipped turn-level policy loss, with the signature of verl's policy losses.

    What masked positions hold (even NaN) changes nothing. Without a single sampled token the loss is 0 with a graph.

    Args:
        old_log_prob: (R, T) float, log-probabilities of the sampled tokens under the old policy, nats.
        log_prob: (R, T) float, under the current policy, nats; gradients flow here only.
        advantages: (R, T) float.
        response_mask: (R, T), 1 on sampled tokens; int, float or bool.
        loss_agg_mode: any of verl's ``agg_loss``; the paper's is ``seq-mean-token-mean``.
        config: verl's ``ActorConfig``: ``clip_ratio_low`` and ``clip_ratio_high`` (``clip_ratio`` where one is
            ``None``) give the range [1 - low, 1 + high]; ``global_batch_info`` goes to ``agg_loss``.
        rollout_is_weights: (R, T) float, weights of verl's rollout correction; multiplied into the loss.

    Returns:
        The loss, a scalar, and metrics. A turn counts as clipped if its first token is.

    Raises:
        ValueError: no config; what ``agg_loss`` raises.
    """
    if config is None:
        raise ValueError("config=None: expected verl's ActorConfig, which holds the clip range.")
    mask = response_mask.bool()
    log_prob, old_log_prob, advantages = (_only(mask, values) for values in (log_prob, old_log_prob, advantages))
    opens = turn_openings(mask)
    log_ratio = log_prob.detach() - old_log_prob
    turn_log_ratio = mean_over_turns(log_ratio, mask, opens)

    ratio = (log_prob - log_prob.detach() + turn_log_ratio).clamp(max=MAX_LOG_RATIO).exp()
    low, high = clip_range(config)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(low, high)
    losses = torch.maximum(unclipped, clipped)
    if rollout_is_weights is not None:
        losses = losses * _only(mask, rollout_is_weights)
    loss = _aggregate(losses, mask, loss_agg_mode, config.global_batch_info)
    return loss, _metrics(log_ratio, (clipped > unclipped).detach(), mask, opens)


def turn_openings(mask: torch.Tensor) -> torch.Tensor:
    """(R, T) bool: the first token of every turn, of a bool mask (R, T).

    Example:
        >>> turn_openings(torch.tensor([[True, True, False, True]])).int().tolist()
        [[1, 0, 0, 1]]
    """
    opens = mask.clone()
    opens[:, 1:] &= ~mask[:, :-1]
    return opens


@torch.no_grad()
def mean_over_turns(values: torch.Tensor, mask: torch.Tensor, opens: torch.Tensor) -> torch.Tensor:
    """Mean over its turn, at every token of the turn; no gradient.

    No shape depends on the data (a row has at most (T + 1) // 2 turns), so nothing waits for the device.

    Args:
        values: (R, T) float, 0 where the mask is; added up in float32 at least.
        mask: (R, T) bool.
        opens: (R, T) bool, :func:`turn_openings` of the mask.

    Returns:
        (R, T); observation tokens hold the mean of the turn before them.

    Example:
        >>> mask = torch.tensor([[True, True, False, True]])
        >>> mean_over_turns(torch.tensor([[1.0, 3.0, 0.0, 5.0]]), mask, turn_openings(mask)).tolist()
        [[2.0, 2.0, 2.0, 5.0]]
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    turn = opens.cumsum(dim=1)  # 1, 2, ...; 0 before the first turn
    sums = values.new_zeros((values.shape[0], (values.shape[1] + 1) // 2 + 1), dtype=dtype)
    counts = torch.zeros_like(sums).scatter_add_(1, turn, mask.to(dtype))
    sums.scatter_add_(1, turn, values.to(dtype))
    return (sums / counts.clamp(min=1)).gather(1, turn)


def clip_range(config: Any) -> tuple[float, float]:
    """Bounds of the importance ratio, [1 - clip_ratio_low, 1 + clip_ratio_high]."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return 1 - low, 1 + high


def _only(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, values, 0.0)


def _aggregate(losses: torch.Tensor, mask: torch.Tensor, mode: str, batch_info: dict[str, Any]) -> torch.Tensor:
    """verl's ``agg_loss``, but 0 instead of 0 / 0 for a micro-batch without a sampled token."""
    from verl.trainer.ppo.core_algos import agg_loss

    info = dict(batch_info)
    if (info.get("dp_size") or 1) == 1:  # with more, verl insists on the global counts
        if info.get("batch_num_tokens") is None:
            info["batch_num_tokens"] = mask.sum().clamp(min=1)
        if info.get("global_batch_size") is None:
            info["global_batch_size"] = mask.any(dim=1).sum().clamp(min=1)
    return agg_loss(loss_mat=losses, loss_mask=mask, loss_agg_mode=mode, **info)


@torch.no_grad()
def _metrics(
    log_ratio: torch.Tensor, clipped: torch.Tensor, mask: torch.Tensor, opens: torch.Tensor
) -> dict[str, float]:
    """Metrics of the micro-batch; one transfer from the device for all of them."""
    tokens, turns, rows = (flags.sum().clamp(min=1) for flags in (mask, opens, mask.any(dim=1)))
    metrics = {
        "actor/pg_clipfrac": (clipped & mask).sum() / tokens,
        "actor/ppo_kl": -log_ratio.sum() / tokens,
        "actor/atpo/turns_per_row": opens.sum() / rows,
        "actor/atpo/turn_clipfrac": (clipped & opens).sum() / turns,
    }
    values = torch.stack([value.float() for value in metrics.values()]).tolist()
    # The dual clip does not exist here; recipes and dashboards expect the name.
    return {**dict(zip(metrics, values, strict=True)), "actor/pg_clipfrac_lower": 0.0}
