"""Rows of a step on simulated ranks, as the package's placement and verl's balancing deal them out."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from tests.assets.packed_batches import Shape, make_batch
from verl_atpo.packed.cost import row_cost
from verl_atpo.packed.trainer import arrange
from verl_atpo.packed.trie import Ints, sort_rows

LONG = {"prompt": 4000, "turns": (12, 20), "sampled": (200, 400), "observed": (500, 1500)}
SHAPES = {
    "22 chains": Shape(22, 0, 0),
    "`tree`: 6 + 6": Shape(6, 1, 6),
    "paper's trees: 10 + 2x6": Shape(10, 2, 6),
    "4 + 3x6": Shape(4, 3, 6),
    "16 chains, prompt of 8k": Shape(16, 0, 0, prompt=8000),
    "12 chains, 12 to 20 turns": Shape(12, 0, 0, **LONG),
    "6 + 6, 12 to 20 turns": Shape(6, 1, 6, **LONG),
}


class Batch:
    """Rows of a step.

    Attributes:
        rows: their tokens.
        keys: as verl names rows.
        offsets: where the rows begin, and the end.
    """

    def __init__(self, shape: Shape, prompts: int, seed: int) -> None:
        """Draw them."""
        made = [make_batch(shape, seed * 10_000 + prompt, vocabulary=1000).whole() for prompt in range(prompts)]
        self.rows: list[Ints] = [np.array(row) for rows in made for row in rows]
        self.keys = [f"{prompt}_{number}_0" for prompt, rows in enumerate(made) for number in range(len(rows))]
        self.offsets = np.cumsum([0, *map(len, self.rows)])

    def reordered(self, order: list[int]) -> Batch:
        """The same rows in another order."""
        other = copy.copy(self)
        other.rows, other.keys = [self.rows[row] for row in order], [self.keys[row] for row in order]
        other.offsets = np.cumsum([0, *map(len, other.rows)])
        return other

    def packed(self, ranks: int, updates: int, budget: int) -> dict[str, float]:
        """Return the metrics that the package's own placement logs."""
        return arrange(self.keys, np.concatenate(self.rows), self.offsets, ranks, updates, budget)[1]

    def lengths(self, rows: list[int]) -> Ints:
        """Count the tokens of each of some rows."""
        return np.diff(self.offsets)[rows]


def verls_cost(batch: Batch, ranks: int, updates: int) -> tuple[float, list[int]]:
    """Cost of the slowest ranks with verl's balancing and rows without padding, and verl's order."""
    workload = calculate_workload(torch.from_numpy(np.diff(batch.offsets)))
    order = list(itertools.chain(*get_seqlen_balanced_partitions(workload, k_partitions=ranks, equal_size=True)))
    costs = [float(row_cost(batch.lengths(part)).sum()) for part in cut(order, ranks * updates)]
    return float(np.array(costs).reshape(ranks, -1).max(0).sum()), order


def limit(batch: Batch) -> float:
    """FLOPs of all rows over those of their distinct tokens: what no placement and no packs exceed."""
    rows = sort_rows(np.concatenate(batch.rows), batch.offsets)
    return float(row_cost(rows.length_R).sum() / row_cost(rows.length_R, rows.shared_R).sum())


def cut(order: list[int], bins: int) -> list[list[int]]:
    """Equal stretches."""
    size = len(order) // bins
    return [order[begin : begin + size] for begin in range(0, len(order), size)]
