"""Simulated cost of a step's slowest rank, packed and not: `python -m benchmarks.packed.ranks`.

    python -m benchmarks.packed.ranks [--seed 0] [--prompts 64] [--budget 16384] [--ranks 8 16 32 64] [--out FILE.json]

Random rows of the paper's lengths and of long agents are dealt to ranks and cut into packs by the package's own code,
and for comparison by verl's own balancing into rows without padding. A step waits in each mini-batch for the slowest
rank. The cost is verl's own measure of FLOPs (`verl_atpo.packed.cost`); nothing runs. `cheaper` is verl's cost over the
packed one, `ideal` the same if all ranks ended together, `without exchanges` with prompts dealt whole where they fit.
A pack may have twice the tokens of the longest row, or the given budget where that is more.
Writes `benchmarks/results/packed_ranks.json`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from benchmarks.packed.batches import Shape, make_batch
from verl_atpo.packed import placement
from verl_atpo.packed.cost import row_cost
from verl_atpo.packed.trainer import arrange
from verl_atpo.packed.trie import Ints

RESULT = Path(__file__).parents[1] / "results" / "packed_ranks.json"
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
MINI_BATCHES = (1, 2)


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


def cut(order: list[int], bins: int) -> list[list[int]]:
    """Equal stretches."""
    size = len(order) // bins
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def lines(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The table."""
    for name, shape in SHAPES.items():
        batch = Batch(shape, options.prompts, options.seed)
        budget = max(options.budget, 2 * int(np.diff(batch.offsets).max()))
        for ranks, updates in itertools.product(options.ranks, MINI_BATCHES):
            if len(batch.rows) % (ranks * updates):
                continue
            own, order = verls_cost(batch, ranks, updates)
            balanced = batch.reordered(order)
            packed = balanced.packed(ranks, updates, budget)
            exchanges, placement.EXCHANGES = placement.EXCHANGES, 0
            before = balanced.packed(ranks, updates, budget)
            placement.EXCHANGES = exchanges
            total = float(row_cost(np.diff(batch.offsets)).sum()) / ranks
            slowest = total / packed["packed/rows_flops_over_slowest_rank"]
            yield {
                "rows": name,
                "ranks": ranks,
                "mini-batches": updates,
                "cheaper": round(own / slowest, 3),
                "without exchanges": round(own * before["packed/rows_flops_over_slowest_rank"] / total, 3),
                "ideal": round(total / slowest * packed["packed/slowest_rank_over_mean"], 3),
                "slowest / mean": round(packed["packed/slowest_rank_over_mean"], 3),
            }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--budget", type=int, default=16384, help="distinct tokens of a pack")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    table = []
    for line in lines(options):
        table.append(line)
        print(json.dumps(line), flush=True)
    settings = {"seed": options.seed, "prompts": options.prompts, "budget": options.budget}
    options.out.write_text(json.dumps({"settings": settings, "rows": table}, indent=1) + "\n")
    print(tabulate(table, headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
