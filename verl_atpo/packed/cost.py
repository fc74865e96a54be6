"""FLOPs that ranks compute for rows, counted over distinct tokens, in verl's own measure.

verl counts ``24576 * length + length**2`` for a row (`verl.utils.seqlen_balancing.calculate_workload`): layers without
attention, and attention, of a model of 7 B parameters. A row that shares its first tokens costs the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verl_atpo.packed.packs import plan_packs
from verl_atpo.packed.trie import Ints, SortedRows

LINEAR = 24576
Costs = npt.NDArray[np.float64]


def row_cost(length: Ints, shared: Ints | int = 0) -> Costs:
    """Compute the cost of the tokens from ``shared`` to ``length``."""
    length, first = np.asarray(length, dtype=np.float64), np.asarray(shared, dtype=np.float64)
    return LINEAR * (length - first) + length**2 - first**2


class SharedPrefixes:
    """Longest common prefix of any two sorted rows: the least that neighbours between them share."""

    def __init__(self, rows: SortedRows) -> None:
        self._levels = [rows.shared_R]
        width = 1
        while 2 * width <= len(rows.shared_R):
            below = self._levels[-1]
            self._levels.append(np.minimum(below[:-width], below[width:]))
            width *= 2

    def __call__(self, first: Ints, second: Ints) -> Ints:
        """Shared tokens of the sorted rows ``first`` and ``second``, place by place; ``first < second``."""
        power = np.frexp(second - first)[1] - 1  # of the largest power of two that fits
        found = np.empty_like(first)
        for level in np.unique(power).tolist():
            at = power == level
            values = self._levels[level]
            found[at] = np.minimum(values[first[at] + 1], values[second[at] + 1 - 2**level])
        return found


def bin_cost(places: Ints, rows: SortedRows, prefixes: SharedPrefixes) -> float:
    """Cost of some rows in one pack.

    Args:
        places: places among the sorted rows, ascending.
        rows: all sorted rows.
        prefixes: prefixes of ``rows``.
    """
    part = rows_at(places, rows, prefixes)
    return float(row_cost(part.length_R, part.shared_R).sum())


def rows_at(places: Ints, rows: SortedRows, prefixes: SharedPrefixes) -> SortedRows:
    """Select some of the sorted rows, ascending, as sorted rows by themselves."""
    shared = np.zeros(len(places), dtype=np.int64)
    if len(places) > 1:
        shared[1:] = prefixes(places[:-1], places[1:])
    return SortedRows(order_R=rows.order_R[places], shared_R=shared, length_R=rows.length_R[places])


def step_cost(
    bins: Sequence[Ints], rows: SortedRows, prefixes: SharedPrefixes, ranks: int, budget: int | None
) -> tuple[float, float]:
    """Cost of an update in packs: of the slowest rank of each mini-batch, and on average over ranks.

    Args:
        bins: the sorted rows of each rank's mini-batches, rank after rank, each ascending.
        rows: all sorted rows.
        prefixes: prefixes of ``rows``.
        ranks: number of ranks.
        budget: distinct tokens of a pack; None for no limit.
    """
    parts = [rows_at(places, rows, prefixes) for places in bins]
    limit = max(int(rows.length_R.max()), budget or int(rows.length_R.sum()))
    count = np.array([len(plan_packs(part, limit)) for part in parts]).reshape(ranks, -1)
    most = np.broadcast_to(count.max(0), count.shape).reshape(-1)  # sharded layers are gathered by all ranks together
    costs = []
    for part, number in zip(parts, most.tolist(), strict=True):
        shared = part.shared_R.copy()
        shared[[begin for begin, _ in plan_packs(part, limit, at_least=min(number, len(part.order_R)))]] = 0
        costs.append(row_cost(part.length_R, shared).sum())
    table = np.array(costs).reshape(ranks, -1)
    return float(table.max(0).sum()), float(table.sum() / ranks)
