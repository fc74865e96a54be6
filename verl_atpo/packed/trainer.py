"""The seam in verl's trainer: trees stay together when a batch is spread over ranks, and its tokens are logged.

verl's V1 trainer has no registry for how it balances a batch, so :func:`keep_trees_together` wraps
``PPOTrainer._balance_batch``, once, in the trainer's process. verl's own method still runs first: it adds the padding.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from verl_atpo.packed.cost import row_cost
from verl_atpo.packed.placement import place_rows
from verl_atpo.packed.trie import Ints, SortedRows, sort_rows

_MARK = "_verl_atpo_packed"


def keep_trees_together() -> None:
    """Wrap ``PPOTrainer._balance_batch``; calling it again changes nothing."""
    original = PPOTrainer._balance_batch
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def _balance_batch(
        self: PPOTrainer, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any
    ) -> KVBatchMeta:
        batch = original(self, batch, metrics, *args, **kwargs)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        updates = mini_batches(self.config, len(batch))
        token_T, offsets = _tokens(batch)
        if ranks > 1:  # one rank gets all rows; verl leaves them in their order, and so do we
            order = place(batch.keys, token_T, offsets, ranks * updates)
            batch.reorder(order)
            lengths = np.diff(offsets).tolist()
            per_rank = len(order) // ranks
            shares = [order[begin : begin + per_rank] for begin in range(0, len(order), per_rank)]
            metrics.update(log_seqlen_unbalance(lengths, shares, prefix="global_seqlen"))
            token_T, offsets = reordered(token_T, offsets, order)
        metrics.update(token_metrics(token_T, offsets, ranks, updates))
        return batch

    setattr(_balance_batch, _MARK, True)
    PPOTrainer._balance_batch = _balance_batch  # type: ignore[method-assign]


def reordered(token_T: Ints, offsets: Ints, order: list[int]) -> tuple[Ints, Ints]:
    """Rows in another order."""
    rows = np.split(token_T, offsets[1:-1])
    return np.concatenate([rows[row] for row in order]), np.cumsum([0, *np.diff(offsets)[order]])


def mini_batches(config: Any, rows: int) -> int:
    """Mini-batches of an update, 1 where the rows do not make whole ones (then verl does not update the actor)."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    size = actor.ppo_mini_batch_size * rollout.n
    return rows // size if rows % size == 0 else 1


def place(keys: list[str], token_T: Ints, offsets: Ints, bins: int) -> list[int]:
    """Order rows so that equal stretches of them are good bins.

    Args:
        keys: verl's keys, ``{uid}_{session}_{index}``.
        token_T: their tokens, one row after the other.
        offsets: where the rows begin, and the end.
        bins: ranks times mini-batches.
    """
    rows = sort_rows(token_T, offsets)
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows.order_R.tolist()):
        groups.setdefault(keys[row].rsplit("_", 2)[0], []).append(position)
    placed = place_rows(rows, [np.array(group) for group in groups.values()], bins)
    return rows.order_R[np.concatenate(placed)].tolist()


def token_metrics(token_T: Ints, offsets: Ints, ranks: int, mini_batches: int) -> dict[str, float]:
    """Tokens of a step in rows and distinct within a rank's mini-batch, and what the slowest ranks save.

    verl's rows are counted as they would be without padding and in perfect balance.

    Args:
        token_T: the batch's tokens in its order.
        offsets: where the rows begin, and the end.
        ranks: of the actor.
        mini_batches: of an update.
    """
    bins = ranks * mini_batches
    per_bin = (len(offsets) - 1) // bins
    parts = [_part(token_T, offsets, begin, begin + per_bin) for begin in range(0, len(offsets) - 1, per_bin)]
    distinct = sum(part.distinct for part in parts)
    cost = np.array([row_cost(part.length_R, part.shared_R).sum() for part in parts]).reshape(ranks, mini_batches)
    slowest = cost.max(0).sum()
    return {
        "packed/row_tokens": float(len(token_T)),
        "packed/distinct_tokens": float(distinct),
        "packed/row_tokens_over_distinct": len(token_T) / distinct,
        "packed/row_cost_over_slowest_rank": float(row_cost(np.diff(offsets)).sum() / ranks / slowest),
        "packed/slowest_rank_over_mean": float(slowest / (cost.sum() / ranks)),
    }


def _part(token_T: Ints, offsets: Ints, begin: int, end: int) -> SortedRows:
    first = offsets[begin]
    return sort_rows(token_T[first : offsets[end]], offsets[begin : end + 1] - first)


def _tokens(batch: KVBatchMeta) -> tuple[Ints, Ints]:
    rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["input_ids"])["input_ids"]
    if rows.is_nested:
        return rows.values().numpy(), rows.offsets().numpy()
    return rows.reshape(-1).numpy(), np.arange(len(rows) + 1) * rows.shape[1]
