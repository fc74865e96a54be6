"""Batches of one prompt and 22 rows, with the paper's numbers of tokens: chains, the paper's trees, deeper trees."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.assets.packed_rows import Rows

LEAVES = 22
Turn = tuple[list[int], list[int]]
"""Tokens observed and tokens sampled."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A batch.

    Attributes:
        chains: trajectories sampled from the prompt.
        rounds: how often turns are sampled again.
        branches: turns sampled again in a round.
        prompt: its tokens.
        turns: fewest and most of a trajectory.
        sampled: fewest and most tokens of a turn.
        observed: fewest and most tokens between two turns.
    """

    chains: int
    rounds: int
    branches: int
    prompt: int = 500
    turns: tuple[int, int] = (2, 5)
    sampled: tuple[int, int] = (100, 200)
    observed: tuple[int, int] = (200, 400)


BATCHES = {
    "22 chains": Shape(LEAVES, 0, 0),
    "paper's trees": Shape(10, 2, 6),
    "trees 4 + 3x6": Shape(4, 3, 6),
    "22 chains, long prompt": Shape(LEAVES, 0, 0, prompt=4000),
    "paper's trees, long prompt": Shape(10, 2, 6, prompt=4000),
}


def make_batch(shape: Shape, seed: int, vocabulary: int, scale: float = 1.0) -> Rows:
    """Random tokens in rows of the shape.

    A turn of the tree that is sampled again is drawn evenly from all of them, and what follows it is new.

    Args:
        shape: of the batch.
        seed: of its tokens, lengths and branchings.
        vocabulary: number of token ids.
        scale: factor of all lengths.
    """
    random = np.random.default_rng(seed)

    def draw(low: float, high: float) -> list[int]:
        return random.integers(0, vocabulary, max(1, int(random.integers(low, high + 1) * scale))).tolist()

    def grown(turns: list[Turn]) -> list[Turn]:
        """A trajectory, its first turns given."""
        total = max(len(turns), int(random.integers(shape.turns[0], shape.turns[1] + 1)))
        numbers = range(len(turns), total)
        return turns + [(draw(*shape.observed) if number else [], draw(*shape.sampled)) for number in numbers]

    prompt = draw(shape.prompt, shape.prompt)
    trajectories = [grown([]) for _ in range(shape.chains)]
    for _ in range(shape.rounds):
        nodes = {id(turn): (turns, place) for turns in trajectories for place, turn in enumerate(turns)}
        for choice in random.integers(len(nodes), size=shape.branches):
            turns, place = list(nodes.values())[choice]
            observation, _ = turns[place]
            trajectories.append(grown([*turns[:place], (observation, draw(*shape.sampled))]))
    return Rows(
        prompts=[prompt] * len(trajectories),
        responses=[[token for turn in turns for part in turn for token in part] for turns in trajectories],
        masks=[[flag for seen, said in turns for flag in [0] * len(seen) + [1] * len(said)] for turns in trajectories],
        uids=["0"] * len(trajectories),
        advantages=random.standard_normal(len(trajectories)).tolist(),
    )


def fitting_scale(shape: Shape, seed: int, most: int) -> float:
    """Factor of lengths with which a batch has about ``most`` tokens in its rows, at most 1."""
    tokens = sum(map(len, make_batch(shape, seed, vocabulary=2).whole()))
    return 1.0 if tokens <= most else round(most / tokens, 2)
