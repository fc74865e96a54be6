"""Token-level rewards as differences of potentials: what both channels to the estimators are written with.

A token's reward is what the potential there has over the one before, so the running sum at a token is its potential and
a row sums to its last one, the outcome. Rows that a rollout wrote carry a MARK on their first free token, and -MARK on
the next one, so that nothing is added.

The writer is pure Python, the readers need torch and import it when they are called. Shapes: rows R, tokens T.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MARK: float = struct.unpack(">f", b"\x03ATP")[0]
"""A normal float32 of 5.7e-37: no reward is that small without being 0, and beside a reward it adds nothing."""

LARGEST: float = struct.unpack(">f", b"\x7f\x7f\xff\xff")[0]
"""The largest float32, 3.4e38."""


def write_potentials(potentials: Mapping[int, float], length: int) -> list[float]:
    """Token-level rewards whose running sum is ``potentials`` at these tokens, with the mark of a tree on free ones.

    Args:
        potentials: token -> running sum there, in order of tokens.
        length: tokens in the response.
    """
    rewards, total = [0.0] * length, 0.0
    for position, value in potentials.items():
        rewards[position] = float32(value - total)
        total += rewards[position]
    _mark(rewards, potentials)
    return rewards


def _mark(rewards: list[float], taken: Container[int]) -> None:
    """Write the marker on the first two tokens from token 2 on that carry no value."""
    free = (position for position in range(2, len(rewards)) if position not in taken)
    for position, mark in zip(free, (MARK, -MARK), strict=False):
        rewards[position] = mark


def float32(value: float) -> float:
    """The nearest float32.

    Raises:
        ValueError: there is none.
    """
    if abs(value) > LARGEST:
        raise ValueError(f"a value or a difference of values is {value:g}: expected at most {LARGEST:g}, a float32.")
    return struct.unpack("f", struct.pack("f", value))[0]


def is_marked(rewards: Sequence[float]) -> bool:
    """Whether a row says by itself that it comes from a tree."""
    return MARK in rewards


def as_float64(rewards_RT: torch.Tensor) -> torch.Tensor:
    """Rewards without loss; refuses types and numbers that cannot carry a channel.

    Raises:
        ValueError: says row, reward and remedy.
    """
    import torch

    if rewards_RT.dtype in (torch.float16, torch.bfloat16) or rewards_RT.is_complex():
        raise ValueError(
            f"token-level rewards of type {rewards_RT.dtype}: expected float32 or float64, because the values of a "
            "tree do not fit into less. Remedy: leave rm_scores as the rollout writes them."
        )
    rewards_RT = rewards_RT.double()
    bad_R = ~(rewards_RT.abs() <= LARGEST).all(dim=1)
    if bad_R.any():
        row = int(bad_R.nonzero()[0])
        worst = rewards_RT[row][~(rewards_RT[row].abs() <= LARGEST)][0]
        raise ValueError(
            f"row {row} has the token-level reward {worst:g}: expected finite float32 numbers. Remedy: let the reward "
            "function return such a number for every answer."
        )
    return rewards_RT


def first_tokens(mask_RT: torch.Tensor) -> torch.Tensor:
    """(R, T) where the turn of each token starts; of a token outside of turns, the turn before it."""
    import torch

    positions_RT = torch.arange(mask_RT.shape[1], device=mask_RT.device).expand_as(mask_RT)
    opens_RT = mask_RT.clone()
    opens_RT[:, 1:] &= ~mask_RT[:, :-1]
    return torch.where(opens_RT, positions_RT, 0).cummax(dim=1).values
