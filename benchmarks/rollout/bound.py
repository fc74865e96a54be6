"""Upper bound of trees' leaves per second where engines have room, over chains': `python -m benchmarks.rollout.bound`.

Every sampled token takes equally long, whatever else runs, so a step takes as long as its longest trajectory. An
expansion cannot start before a second turn is known, since a first turn shares only the prompt. Each chain of more than
one turn is expanded as soon as its second turn has ended; nothing that a schedule does can start earlier.
"""

from __future__ import annotations

import random
import statistics

from benchmarks.rollout.agent import Workload

PAPER = Workload(prompt_tokens=500, median_turn_tokens=150, observation_tokens=300)
PROMPTS = 64
TREES = {"`tree`: 6 + 6": (6, 6), "paper's trees: 10 + 12": (10, 12)}
"""Chains and expansions of a prompt."""


def turns(workload: Workload, rng: random.Random, first: int = 1) -> list[int]:
    """Tokens of a trajectory's turns, from turn ``first`` to its end."""
    lengths = []
    for _ in range(first, workload.max_turns + 1):
        lengths.append(workload.turn_tokens(rng))
        if rng.random() < workload.end_share:
            break
    return lengths


def bound(workload: Workload, chains: int, expansions: int, seed: int, prompts: int = PROMPTS) -> float:
    """Return the longest of as many chains as leaves over the earliest end of the trees."""
    rng = random.Random(seed)
    alone = max(sum(turns(workload, rng)) for _ in range(prompts * (chains + expansions)))
    return alone / max(_earliest_end(workload, chains, expansions, rng) for _ in range(prompts))


def _earliest_end(workload: Workload, chains: int, expansions: int, rng: random.Random) -> int:
    made = [turns(workload, rng) for _ in range(chains)]
    known = sorted(sum(chain[:2]) for chain in made if len(chain) > 1) or [min(chain[0] for chain in made)]
    ends = [known[number % len(known)] + sum(turns(workload, rng, 2)) for number in range(expansions)]
    return max(*map(sum, made), *ends)


def main() -> None:
    """Command line."""
    for name, (chains, expansions) in TREES.items():
        found = [bound(PAPER, chains, expansions, seed) for seed in range(200)]
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name}: median {middle:.2f}, quartiles {low:.2f} and {high:.2f} of chains' leaves per second")


if __name__ == "__main__":
    main()
