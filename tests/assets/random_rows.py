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


def rows_by_hand() -> Rows:
    """Two prompts, the first a beginning of the second, with every kind of row that is out of the ordinary.

    Of the first prompt: a whole row of two turns, the same once more, one whose replay diverged (the observation is
    another one, so that all after it is too), one cut by the response limit inside the second turn, one of a single
    token, which the whole row begins with, and one cut inside the observation. Of the second: two rows that part at
    their first token.
    """
    prompt = [4, 5, 6, 7]
    whole, mask = [10, 11, 12, 20, 21, 22, 13, 14, 15, 1], [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    diverged = [*whole[:4], 30, 31, *whole[6:]]
    responses = [whole, whole, diverged, whole[:8], whole[:1], whole[:5], [10, 1], [11, 1]]
    return Rows(
        prompts=[prompt] * 6 + [[*prompt, 8]] * 2,
        responses=responses,
        masks=[mask[: len(response)] for response in responses],
        uids=[f"{0:032x}"] * 6 + [f"{1:032x}"] * 2,
        advantages=[1.0, -0.5, 2.0, 0.25, -1.5, 0.75, 0.5, -2.0],
    )
