"""The seam in verl's trainer that distributes rows to ranks by shared prefix, and logs what that saves.

verl's V1 trainer has no registry for how it balances a batch, so :func:`keep_trees_together` wraps
``PPOTrainer._balance_batch``, once, in the trainer's process. verl's own method still runs first: it adds the padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from verl_atpo.packed.cost import SharedPrefixes, row_cost, rows_at, step_cost
from verl_atpo.packed.placement import place_rows
from verl_atpo.packed.trie import Ints, sort_rows
from verl_atpo.seams.wrap import wrap_once


def keep_trees_together() -> None:
    """Wrap ``PPOTrainer._balance_batch``; calling it again changes nothing."""
    wrap_once(PPOTrainer, "_balance_batch", _with_placement)


def _with_placement(original: Any) -> Any:
    def _balance_batch(
        self: PPOTrainer, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any
    ) -> KVBatchMeta:
        batch = original(self, batch, metrics, *args, **kwargs)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        token_T, offsets = _tokens(batch)
        updates = mini_batches(self.config, len(batch))
        order, found = arrange(batch.keys, token_T, offsets, ranks, updates, pack_budget(self.config))
        if ranks > 1:  # one rank gets all rows; verl leaves them in their order, and so do we
            batch.reorder(order)
            per_rank = len(order) // ranks
            shares = [order[begin : begin + per_rank] for begin in range(0, len(order), per_rank)]
            metrics.update(log_seqlen_unbalance(np.diff(offsets).tolist(), shares, prefix="global_seqlen"))
        metrics.update(found)
        return batch

    return _balance_batch


def mini_batches(config: Any, rows: int) -> int:
    """Mini-batches of an update, 1 where the rows do not make whole ones (then verl does not update the actor)."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    size = actor.ppo_mini_batch_size * rollout.n
    return rows // size if rows % size == 0 else 1


def pack_budget(config: Any) -> int | None:
    """Distinct tokens of a pack in an update; None where packs follow verl's micro-batches of a number of rows."""
    actor = config.actor_rollout_ref.actor
    return int(actor.ppo_max_token_len_per_gpu) if actor.use_dynamic_bsz else None


def arrange(
    keys: list[str], token_T: Ints, offsets: Ints, ranks: int, updates: int, budget: int | None
) -> tuple[list[int], dict[str, float]]:
    """Order rows so that equal stretches of them are good bins, and say what that saves.

    Where verl's own order is cheaper once it is packed, it stays: packs never cost more than rows without padding.

    Args:
        keys: verl's keys, ``{uid}_{session}_{index}``, in verl's order.
        token_T: their tokens, one row after the other.
        offsets: where the rows begin, and the end.
        ranks: ranks of the actor; with one the order stays.
        updates: mini-batches.
        budget: distinct tokens of a pack.

    Returns:
        The order, and metrics of the step.
    """
    rows = sort_rows(token_T, offsets)
    prefixes = SharedPrefixes(rows)
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows.order_R.tolist()):
        groups.setdefault(keys[row].rsplit("_", 2)[0], []).append(position)
    position_of = np.argsort(rows.order_R)
    own = [np.sort(part) for part in np.split(position_of, ranks * updates)]
    order, bins, (slowest, mean) = list(range(len(keys))), own, step_cost(own, rows, prefixes, ranks, budget)
    if ranks > 1:
        placed = place_rows(rows, [np.array(group) for group in groups.values()], ranks * updates)
        cost = step_cost(placed, rows, prefixes, ranks, budget)
        if cost[0] < slowest:
            order, bins, (slowest, mean) = rows.order_R[np.concatenate(placed)].tolist(), placed, cost
    distinct = sum(rows_at(places, rows, prefixes).distinct for places in bins)
    return order, {
        "packed/row_tokens": float(len(token_T)),
        "packed/distinct_tokens": float(distinct),
        "packed/row_tokens_over_distinct": len(token_T) / distinct,
        "packed/rows_flops_over_slowest_rank": float(row_cost(np.diff(offsets)).sum() / ranks / slowest),
        "packed/slowest_rank_over_mean": slowest / mean,
    }


def _tokens(batch: KVBatchMeta) -> tuple[Ints, Ints]:
    rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["input_ids"])["input_ids"]
    if rows.is_nested:
        return rows.values().numpy(), rows.offsets().numpy()
    return rows.reshape(-1).numpy(), np.arange(len(rows) + 1) * rows.shape[1]
