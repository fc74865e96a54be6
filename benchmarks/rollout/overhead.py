"""Cost of the rollout without the engine: ``python -m benchmarks.rollout.overhead``.

An engine that answers at once leaves only our own work: time per turn of trees, next to the same agent's chains without
anything of ours, how time and memory grow from 8 to 64 prompts of 22 leaves, and what a finished tree holds. Writes
``benchmarks/results/rollout_overhead.json``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.rollout.agent import Latency, Workload
from benchmarks.rollout.engine import InstantClient
from benchmarks.rollout.schedules import Batch, chains, grow
from verl_atpo.config import AtpoConfig, ExpansionConfig, SharedTurns
from verl_atpo.method.scheme import find_scheme
from verl_atpo.rollout.rows import leaf_outputs

RESULT = Path(__file__).parents[1] / "results" / "rollout_overhead.json"
PAPER = AtpoConfig(expansion=ExpansionConfig(initial_chains=10, branches_per_round=6, rounds=2))
SIZES = {"short": Workload(), "long": Workload(prompt_tokens=1000, median_turn_tokens=400, observation_tokens=500)}


async def grow_and_write(client: InstantClient, batch: Batch) -> int:
    """Trees and their rows, as a worker makes them."""
    trees = await grow(client, batch)
    credits = [find_scheme(PAPER).credit(tree.tree, tree.paths) for tree in trees]
    return sum(
        len(list(leaf_outputs(tree, credit, SharedTurns.PER_LEAF))) for tree, credit in zip(trees, credits, strict=True)
    )


def milliseconds_per_turn(schedule: Any, batch: Batch) -> tuple[float, int]:
    """Time per sampled turn, and the number of turns."""
    client = InstantClient()
    started = time.perf_counter()
    asyncio.run(schedule(client, batch))
    return 1000 * (time.perf_counter() - started) / client.turns, client.turns


def measure(name: str, workload: Workload, prompts: int) -> dict[str, Any]:
    """Measure one size."""
    batch = Batch(prompts, PAPER, workload, Latency())
    tree_ms, turns = min(milliseconds_per_turn(grow_and_write, batch) for _ in range(3))
    chain_ms, _ = min(milliseconds_per_turn(chains, batch) for _ in range(3))
    tracemalloc.start()
    asyncio.run(grow_and_write(InstantClient(), batch))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "turns": name,
        "prompts": prompts,
        "sampled turns": turns,
        "trees, ms/turn": tree_ms,
        "agent alone, ms/turn": chain_ms,
        "ours, ms/turn": tree_ms - chain_ms,
        "peak MB": peak / 1e6,
        "peak MB/prompt": peak / 1e6 / prompts,
    }


def held_mb_per_leaf() -> float:
    """Memory of one finished tree, rows not yet made, of trajectories of 7 turns of 6,000 tokens; observations half."""
    turns = Workload(500, median_turn_tokens=3000, turn_sigma=0.0, max_turns=7, end_share=0.0, observation_tokens=3000)
    tracemalloc.start()
    trees = asyncio.run(grow(InstantClient(), Batch(1, PAPER, turns, Latency())))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / 1e6 / sum(len(tree.leaves) for tree in trees)


def main() -> None:
    """Command line."""
    rows = [measure(name, workload, prompts) for name, workload in SIZES.items() for prompts in (8, 16, 32, 64)]
    settings = {"leaves": PAPER.expansion.leaves, **{name: dataclasses.asdict(size) for name, size in SIZES.items()}}
    held = held_mb_per_leaf()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"settings": settings, "rows": rows, "held_mb_per_leaf": held}, indent=1))
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f"))
    print(f"A finished tree holds {held:.2f} MB a leaf at 7 turns of 6,000 tokens.")


if __name__ == "__main__":
    main()
