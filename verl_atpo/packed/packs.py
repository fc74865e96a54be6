"""Cut sorted rows into packs within a budget of distinct tokens, where the fewest tokens are repeated.

A pack is a stretch of the sorted rows (:mod:`verl_atpo.packed.trie`): its distinct tokens are its first row and what
each further row adds. Cutting before a row repeats the tokens that it shares with the row before it; between two trees
that is the prompt's common beginning, if anything.
"""

from __future__ import annotations

import numpy as np

from verl_atpo.packed.trie import Ints, SortedRows

Pack = tuple[int, int]
"""First of the sorted rows, and one past the last."""


def plan_packs(rows: SortedRows, budget: int, at_least: int = 1) -> list[Pack]:
    """Cut sorted rows into packs: the fewest repeated tokens, and of such plans the fewest packs.

    Args:
        rows: the rows of one rank and mini-batch.
        budget: distinct tokens a pack may have.
        at_least: number of packs that other ranks have (every rank must run as many as the others).

    Raises:
        ValueError: a row alone is over the budget, or there are fewer rows than packs.
    """
    lengths, shared, count = rows.length_R, rows.shared_R, len(rows.order_R)
    if count and int(lengths.max()) > budget:
        raise ValueError(
            f"a row of {int(lengths.max())} tokens is longer than the {budget} that a pack may have; raise "
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu (and rollout.log_prob_max_token_len_per_gpu) to it."
        )
    if count < at_least:
        raise ValueError(f"expected at least {at_least} rows, one for each pack of another rank, got {count}")
    return _split(_cheapest(lengths, shared, budget), rows, at_least)


def _cheapest(lengths: Ints, shared: Ints, budget: int) -> list[Pack]:
    """Find the cheapest cuts: ``repeated[b]`` is the least that packs of the first b rows repeat."""
    count = len(lengths)
    grown = np.concatenate([[0], np.cumsum(lengths - shared)])
    cost = shared * (count + 1) + 1  # a repeated token outweighs any number of packs
    repeated = np.zeros(count + 1, dtype=np.int64)
    came_from = np.zeros(count + 1, dtype=np.int64)
    first = 0  # of the rows from which a pack up to this one fits; packs that begin later are smaller
    for stop in range(1, count + 1):
        while lengths[first] + grown[stop] - grown[first + 1] > budget:
            first += 1
        starts = slice(first, stop)
        totals = repeated[starts] + np.where(np.arange(first, stop) == 0, 1, cost[starts])
        best = int(totals.argmin())
        repeated[stop], came_from[stop] = totals[best], first + best
    packs, stop = [], count
    while stop > 0:
        packs.append((int(came_from[stop]), stop))
        stop = int(came_from[stop])
    return packs[::-1]


def _split(packs: list[Pack], rows: SortedRows, at_least: int) -> list[Pack]:
    """Cut further, at the cheapest places, until there are ``at_least`` packs."""
    missing = at_least - len(packs)
    if missing <= 0:
        return packs
    cuts = {begin for begin, _ in packs}
    inner = [row for row in range(len(rows.order_R)) if row not in cuts]
    cuts.update(sorted(inner, key=lambda row: int(rows.shared_R[row]))[:missing])
    begins = sorted(cuts)
    return list(zip(begins, [*begins[1:], len(rows.order_R)], strict=True))


def pack_tokens(rows: SortedRows, pack: Pack) -> int:
    """Distinct tokens of a pack."""
    begin, end = pack
    return int(rows.length_R[begin] + (rows.length_R - rows.shared_R)[begin + 1 : end].sum())
