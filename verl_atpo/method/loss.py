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
    log_ratio = torch.where(mask, log_prob - old_log_prob, 0.0)
    advantages = torch.where(mask, advantages, 0.0)
    turns = Turns(mask, log_ratio.dtype)
    turn_log_ratio = turns.mean(log_ratio.detach())

    ratio = (log_ratio - log_ratio.detach() + turn_log_ratio).clamp(max=MAX_LOG_RATIO).exp()
    low, high = clip_range(config)
    # max(-A s, -A clip(s)), in half the memory: only the bound beyond which A has nothing to gain any more holds.
    bounded = torch.where(advantages > 0, ratio.clamp(max=high), ratio.clamp(min=low))
    losses = -advantages * bounded
    clipped = (bounded != ratio) & (advantages != 0)
    if rollout_is_weights is not None:
        losses = losses * torch.where(mask, rollout_is_weights, 0.0)
    loss = _aggregate(losses, turns, loss_agg_mode, config.global_batch_info)
    return loss, _metrics(log_ratio.detach(), clipped, turns)


class Turns:
    """The turns of a batch of rows: the maximal runs of ones in a mask.

    No shape depends on the data (a row has at most (T + 1) // 2 turns), so nothing here waits for the device.

    Attributes:
        mask: (R, T) float, 1 on sampled tokens.
        opens: (R, T) bool, the first token of every turn.
        number: (R, T) int, 1, 2, ... along the row; observation tokens have that of the turn before, or 0.
        lengths: (R, (T + 1) // 2 + 1) float, tokens of each turn by its number.

    Example:
        >>> turns = Turns(torch.tensor([[True, True, False, True]]), torch.float32)
        >>> turns.number.tolist(), turns.lengths.tolist()
        ([[1, 1, 1, 2]], [[0.0, 2.0, 1.0]])
        >>> turns.mean(torch.tensor([[1.0, 3.0, 0.0, 5.0]])).tolist()
        [[2.0, 2.0, 2.0, 5.0]]
    """

    def __init__(self, mask: torch.Tensor, dtype: torch.dtype) -> None:
        self.mask = mask.to(torch.promote_types(dtype, torch.float32))
        self.opens = mask.clone()
        self.opens[:, 1:] &= ~mask[:, :-1]
        self.number = self.opens.cumsum(dim=1, dtype=torch.int32)
        self.lengths = self._sums(self.mask)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over its turn, at every token, (R, T); ``values``, (R, T), are 0 where the mask is.

        Added up in float32 at least.
        """
        return (self._sums(values.to(self.mask.dtype)) / self.lengths.clamp(min=1)).gather(1, self.number)

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        rows, tokens = values.shape
        return values.new_zeros((rows, (tokens + 1) // 2 + 1)).scatter_add_(1, self.number, values)


def clip_range(config: Any) -> tuple[float, float]:
    """Bounds of the importance ratio, [1 - clip_ratio_low, 1 + clip_ratio_high]."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return 1 - low, 1 + high


def _aggregate(losses: torch.Tensor, turns: Turns, mode: str, batch_info: dict[str, Any]) -> torch.Tensor:
    """verl's ``agg_loss``, but 0 instead of 0 / 0 for a micro-batch without a sampled token."""
    from verl.trainer.ppo.core_algos import agg_loss

    info = dict(batch_info)
    if (info.get("dp_size") or 1) == 1:  # with more, verl insists on the global counts
        if info.get("batch_num_tokens") is None:
            info["batch_num_tokens"] = turns.lengths.sum().clamp(min=1)
        if info.get("global_batch_size") is None:
            info["global_batch_size"] = (turns.number[:, -1] > 0).sum().clamp(min=1)
    return agg_loss(loss_mat=losses, loss_mask=turns.mask, loss_agg_mode=mode, **info)


@torch.no_grad()
def _metrics(log_ratio: torch.Tensor, clipped: torch.Tensor, turns: Turns) -> dict[str, float]:
    """Metrics of the micro-batch; one transfer from the device for all of them.

    Args:
        log_ratio: (R, T) float, 0 where the mask is.
        clipped: (R, T) bool, false where the mask is.
        turns: of the micro-batch.
    """
    turns_of_row = turns.number[:, -1]
    tokens, all_turns, rows = turns.lengths.sum(), turns_of_row.sum(), turns_of_row.count_nonzero()
    metrics = {
        "actor/pg_clipfrac": clipped.count_nonzero() / tokens.clamp(min=1),
        "actor/ppo_kl": -log_ratio.sum() / tokens.clamp(min=1),
        "actor/atpo/turns_per_row": all_turns / rows.clamp(min=1),
        "actor/atpo/turn_clipfrac": (clipped & turns.opens).count_nonzero() / all_turns.clamp(min=1),
    }
    values = torch.stack([value.float() for value in metrics.values()]).tolist()
    # The dual clip does not exist here; recipes and dashboards expect the name.
    return {**dict(zip(metrics, values, strict=True)), "actor/pg_clipfrac_lower": 0.0}
