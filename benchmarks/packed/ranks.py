"""Simulated cost of a step's slowest rank, packed and not: `python -m benchmarks.packed.ranks`.

    python -m benchmarks.packed.ranks [--seed 0] [--prompts 64] [--budget 16384] [--ranks 8 16 32 64] [--out FILE.json]

Random rows of the paper's lengths and of long agents are distributed and cut into packs by the package's own code,
and for comparison by verl's own balancing into rows without padding. A step waits in each mini-batch for the slowest
rank. The cost is verl's own measure of FLOPs (`verl_atpo.packed.cost`); nothing runs. `cheaper` is verl's cost over the
packed one, `ideal` the same if all ranks ended together, `limit` the same if also no tree were cut: FLOPs of the rows
over those of their distinct tokens, which no plan exceeds. `without exchanges` keeps prompts whole where they fit.
A pack may have twice the tokens of the longest row, or the given budget where that is more.
Writes `benchmarks/results/packed_ranks.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from tests.assets.simulated_ranks import SHAPES, Batch, limit, verls_cost
from verl_atpo.packed import placement
from verl_atpo.packed.cost import row_cost

RESULT = Path(__file__).parents[1] / "results" / "packed_ranks.json"
MINI_BATCHES = (1, 2)


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
                "limit": round(limit(batch), 3),
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
