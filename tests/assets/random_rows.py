"""Random rows that share prefixes as those of trees do."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from benchmarks.packed.rows import Rows

row_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)
"""Rows of few different tokens, so that prefixes meet often and rows repeat."""


def random_trees(seed: int, groups: int = 3, rows: int = 6, vocabulary: int = 47, padding: int = 0) -> Rows:
    """Trees grown at random: a row leaves one of its prompt's earlier rows anywhere and goes on by itself.

    Among them are rows equal to others, rows of one sampled token, rows cut inside a turn, and rows with nothing to
    train on; all prompts begin alike.

    Args:
        seed: of it all.
        groups: prompts.
        rows: rows a prompt.
        vocabulary: number of token ids.
        padding: rows that verl adds: equal prompts, one response token that is not sampled.
    """
    random = np.random.default_rng(seed)

    def draw(count: int) -> list[int]:
        return random.integers(4, vocabulary, count).tolist()

    system = draw(3)
    found = Rows([], [], [], [], [])
    for group in range(groups):
        prompt, grown = system + draw(int(random.integers(1, 6))), []
        for _ in range(rows):
            parent = grown[random.integers(len(grown))] if grown else ([], [])
            kept = int(random.integers(len(parent[0]) + 1)) if grown else 0
            response, mask = parent[0][:kept], parent[1][:kept]
            for turn in range(int(random.integers(0 if kept else 1, 4))):
                length = int(random.integers(1, 5))
                response, mask = response + draw(length), mask + [(turn + 1) % 2] * length
            grown.append((response, mask))
            found.prompts.append(prompt)
            found.responses.append(response)
            found.masks.append([0] * len(mask) if random.random() < 0.1 else mask)
            found.uids.append(f"{group:032x}")
    for _ in range(padding):
        found.prompts.append([2] * 5)
        found.responses.append([2])
        found.masks.append([0])
        found.uids.append("pad")
    found.advantages.extend(random.standard_normal(len(found.uids)).tolist())
    return found
