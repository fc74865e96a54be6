"""How much a rank computes for rows: the FLOPs of their distinct tokens, in verl's own measure.

verl counts ``24576 * length + length**2`` for a row (`verl.utils.seqlen_balancing.calculate_workload`): layers without
attention, and attention, of a model of 7 B parameters. A row that shares its first tokens costs the difference.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verl_atpo.packed.trie import Ints, SortedRows

LINEAR = 24576
Costs = npt.NDArray[np.float64]


def row_cost(length: Ints, shared: Ints | int = 0) -> Costs:
    """Cost of the tokens from ``shared`` to ``length``."""
    length, first = np.asarray(length, dtype=np.float64), np.asarray(shared, dtype=np.float64)
    return LINEAR * (length - first) + length**2 - first**2


class SharedPrefixes:
    """Longest common prefix of any two of some sorted rows: the least of what neighbours between them share."""

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
        places: which of the sorted rows, ascending.
        rows: all sorted rows.
        prefixes: of ``rows``.
    """
    if not len(places):
        return 0.0
    shared = np.concatenate([[0], prefixes(places[:-1], places[1:])]) if len(places) > 1 else 0
    return float(row_cost(rows.length_R[places], shared).sum())
