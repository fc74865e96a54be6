"""The seam in verl's trainer: trees stay together when a batch is spread over ranks, and its tokens are logged.

verl's V1 trainer has no registry for how it balances a batch, so :func:`keep_trees_together` wraps
``PPOTrainer._balance_batch``, once, in the trainer's process. verl's own method still runs first: it adds the padding.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.seqlen_balancing import log_seqlen_unbalance

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
        bins = ranks * mini_batches(self.config, len(batch))
        token_T, offsets = _tokens(batch)
        if ranks > 1:  # one rank gets all rows; verl leaves them in their order, and so do we
            order = place(batch.keys, token_T, offsets, bins)
            batch.reorder(order)
            lengths = np.diff(offsets).tolist()
            per_rank = len(order) // ranks
            shares = [order[begin : begin + per_rank] for begin in range(0, len(order), per_rank)]
            metrics.update(log_seqlen_unbalance(lengths, shares, prefix="global_seqlen"))
            token_T, offsets = _tokens(batch)
        metrics.update(token_metrics(token_T, offsets, bins))
        return batch

    setattr(_balance_batch, _MARK, True)
    PPOTrainer._balance_batch = _balance_batch  # type: ignore[method-assign]


def mini_batches(config: Any, rows: int) -> int:
    """Mini-batches of an update, 1 where the rows do not make whole ones (then verl does not update the actor)."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    size = actor.ppo_mini_batch_size * rollout.n
    return rows // size if rows % size == 0 else 1


def place(keys: list[str], token_T: Ints, offsets: Ints, bins: int) -> list[int]:
    """Order of rows that keeps those of a prompt together.

    Args:
        keys: verl's keys, ``{uid}_{session}_{index}``.
        token_T: their tokens, one row after the other.
        offsets: where the rows begin, and the end.
        bins: ranks times mini-batches.
    """
    sorted_rows = sort_rows(token_T, offsets)
    groups: dict[str, list[int]] = {}
    tokens: dict[str, int] = {}
    for row, length, shared in zip(
        sorted_rows.order_R.tolist(), sorted_rows.length_R.tolist(), sorted_rows.shared_R.tolist(), strict=True
    ):
        uid = keys[row].rsplit("_", 2)[0]
        tokens[uid] = tokens.get(uid, 0) + (length - shared if uid in groups else length)
        groups.setdefault(uid, []).append(row)
    return place_rows(groups, tokens, bins)


def token_metrics(token_T: Ints, offsets: Ints, bins: int) -> Mapping[str, float]:
    """Tokens of a step, in rows and distinct within a rank's mini-batch, and how many times fewer the latter are."""
    per_bin = (len(offsets) - 1) // bins
    distinct = sum(
        _part(token_T, offsets, begin, begin + per_bin).distinct for begin in range(0, len(offsets) - 1, per_bin)
    )
    return {
        "packed/row_tokens": float(len(token_T)),
        "packed/distinct_tokens": float(distinct),
        "packed/row_tokens_over_distinct": len(token_T) / distinct,
    }


def _part(token_T: Ints, offsets: Ints, begin: int, end: int) -> SortedRows:
    first = offsets[begin]
    return sort_rows(token_T[first : offsets[end]], offsets[begin : end + 1] - first)


def _tokens(batch: KVBatchMeta) -> tuple[Ints, Ints]:
    rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["input_ids"])["input_ids"]
    if rows.is_nested:
        return rows.values().numpy(), rows.offsets().numpy()
    return rows.reshape(-1).numpy(), np.arange(len(rows) + 1) * rows.shape[1]
