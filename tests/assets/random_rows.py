"""Random rows that share prefixes as those of trees do."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.assets.packed_rows import Rows

row_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)
"""Rows of few different tokens, so that prefixes meet often and rows repeat."""


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
