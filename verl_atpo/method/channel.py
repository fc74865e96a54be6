"""Channel from rollout to estimator: a row's token-level rewards carry its turns' credit and its outcome.

verl's trainer hands an estimator token-level rewards, mask, settings and uids, and nothing else of a rollout. So
:func:`write_row` writes the credit of a row's turns as differences of potentials, and :func:`read_rows` adds them up
again. The running sum of a row's rewards is

    at the first token of turn k       the turn's advantage before it is scaled
    at the first token after turn k    a second number of the turn, if the scheme has one and another turn follows
    at the last token                  the outcome: a row sums to it, so verl's scores and dumps stay right

Two tokens that carry nothing hold MARK and -MARK, which say that the row was written here; a row without them is a
plain chain with any rewards. A trajectory may have several rows, each with its own turns. All but one hold PART
instead: they carry credit like any other row, but the outcome counts once in the statistics of its group.

A row has room for all of this if it has three tokens more than numbers to carry. Where that is missing (responses of a
few tokens), the row gets longer, see :func:`write_row`.

The writer is pure Python, the reader needs torch and imports it when it is called.
Shapes: rows R (all rows of the batch), tokens T (right-padded responses).
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

MARK: float = struct.unpack(">f", b"\x03ATP")[0]
"""A normal float32 of 5.7e-37, smaller than any reward except 0; rounding removes it from a sum with a reward."""

PART: float = struct.unpack(">f", b"\x03ATR")[0]
"""The mark of a row whose outcome counts in another row of the same trajectory."""

LARGEST: float = struct.unpack(">f", b"\x7f\x7f\xff\xff")[0]
"""The largest float32, 3.4e38."""


class TurnCredit(NamedTuple):
    """Credit of one turn in one row.

    Attributes:
        advantage: before it is scaled.
        after: a second number, read on the first token after the turn; ``None`` where there is none.
    """

    advantage: float
    after: float | None = None


def write_row(
    credits: Sequence[TurnCredit],
    spans: Sequence[tuple[int, int]],
    outcome: float,
    length: int,
    counts: bool = True,
) -> list[float]:
    """Token-level rewards of one row.

    Every entry is a float32 and makes up for the rounding of those before it, so that errors do not add up.

    Args:
        credits: credit of each turn in the row.
        spans: per turn, its first token in the response and the first one after it. An observation of at least one
            token lies between two turns. Tokens at or after ``length`` were cut off and are not written.
        outcome: outcome of the trajectory.
        length: tokens in the response.
        counts: whether the outcome counts here in the statistics of its group: true for one row of a trajectory.

    Returns:
        At least ``length`` rewards. Where there are more, the response needs as many further tokens, which are masked.

    Raises:
        ValueError: spans that violate the above; numbers that float32 cannot hold.

    Examples:
        Turn 1 is tokens 0-1, token 2 an observation, turn 2 is tokens 3-6:

        >>> row = write_row([TurnCredit(0.5, 0.25), TurnCredit(-1.0)], [(0, 2), (3, 7)], 1.0, 7)
        >>> tuple(0.0 if abs(reward) == MARK else reward for reward in row)
        (0.5, 0.0, -0.25, -1.25, 0.0, 0.0, 2.0)
        >>> row.index(MARK), row.index(-MARK)
        (1, 4)
    """
    _check(credits, spans, outcome, length)
    potentials = _potentials(credits, spans, length)
    last = max(potentials, default=-1)
    length = max(length, last + 2, len(potentials) + 3)
    if length - last > 4:
        potentials[length - 2] = outcome  # what float32 leaves of a large outcome is put on the token after
    potentials[length - 1] = outcome
    rewards, total = [0.0] * length, 0.0
    for position, potential in potentials.items():
        rewards[position] = _float32(potential - total)
        total += rewards[position]
    free = [position for position in range(length) if position not in potentials]
    mark = MARK if counts else PART
    rewards[free[0]], rewards[free[1]] = mark, -mark
    return rewards


def _potentials(credits: Sequence[TurnCredit], spans: Sequence[tuple[int, int]], length: int) -> dict[int, float]:
    """List the running sums that carry the turns' numbers, by token, in order."""
    potentials: dict[int, float] = {}
    for credit, (start, end) in zip(credits, spans, strict=True):
        if start < length:
            potentials[start] = credit.advantage
        if credit.after is not None and end < length:
            potentials[end] = credit.after
    return potentials


def _check(credits: Sequence[TurnCredit], spans: Sequence[tuple[int, int]], outcome: float, length: int) -> None:
    if not credits or len(credits) != len(spans):
        raise ValueError(f"credit of {len(credits)} turns for {len(spans)} spans: expected one each, at least one.")
    numbers = [outcome, *itertools.chain.from_iterable(credits)]
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise ValueError(f"outcome {outcome} with the credit {list(credits)}: expected finite numbers.")
    if length < 1:
        raise ValueError(f"length={length}: expected a response of at least one token.")
    edges = [-1, *itertools.chain.from_iterable(spans)]
    if not all(before < after for before, after in itertools.pairwise(edges)):
        raise ValueError(
            f"spans={list(spans)}: expected turns of at least one token, in order, with at least one between two."
        )


def _float32(value: float) -> float:
    """Round to the nearest float32."""
    if abs(value) > LARGEST:
        raise ValueError(f"a number or a difference of numbers is {value:g}: expected at most {LARGEST:g}, a float32.")
    return float(struct.unpack("f", struct.pack("f", value))[0])


def is_marked(rewards: Sequence[float]) -> bool:
    """Return whether a row was written by :func:`write_row`."""
    return MARK in rewards or PART in rewards


class Rows(NamedTuple):
    """The content of the rows of a batch.

    Attributes:
        advantage_RT: advantage before scaling of each token's turn; outside of turns, that of the turn before.
        after_RT: the turn's second number on the first token after a turn that another follows; else 0.
        outcome_R: outcome.
        written_R: bool, the row was written by :func:`write_row`; the numbers above mean nothing in other rows.
        counts_R: bool, the outcome counts in the statistics of its group.
        first_RT: bool, the token's turn is the first one of its row.
    """

    advantage_RT: torch.Tensor
    after_RT: torch.Tensor
    outcome_R: torch.Tensor
    written_R: torch.Tensor
    counts_R: torch.Tensor
    first_RT: torch.Tensor


def read_rows(rewards_RT: torch.Tensor, mask_RT: torch.Tensor) -> Rows:
    """Read all rows back, in float64.

    Args:
        rewards_RT: float32, float64 or integer.
        mask_RT: 1 on sampled tokens. Whole turns may be masked; the others keep their numbers.

    Raises:
        ValueError: a type that cannot carry the channel, or rewards that are not finite float32 numbers.
    """
    import torch

    rewards_RT, mask_RT = _as_float64(rewards_RT), mask_RT.bool()
    part_R = (rewards_RT == PART).any(dim=1)
    written_R = part_R | (rewards_RT == MARK).any(dim=1)
    marks_RT = (rewards_RT.abs() == MARK) | (rewards_RT.abs() == PART)
    rewards_RT = torch.where(marks_RT, 0.0, rewards_RT)
    running_RT = rewards_RT.cumsum(dim=1)
    start_RT = _first_tokens(mask_RT)
    after_RT = ~mask_RT & (start_RT < start_RT[:, -1:])  # before the last turn
    after_RT[:, 1:] &= mask_RT[:, :-1]
    after_RT[:, :1] = False
    return Rows(
        advantage_RT=running_RT.gather(1, start_RT),
        after_RT=torch.where(after_RT & written_R[:, None], running_RT, 0.0),
        outcome_R=rewards_RT.sum(dim=1),
        written_R=written_R,
        counts_R=~part_R,
        first_RT=start_RT == mask_RT.int().argmax(dim=1, keepdim=True),
    )


def _as_float64(rewards_RT: torch.Tensor) -> torch.Tensor:
    """Rewards without loss; refuses types and numbers that cannot carry the channel."""
    import torch

    if rewards_RT.dtype in (torch.float16, torch.bfloat16) or rewards_RT.is_complex():
        raise ValueError(
            f"token-level rewards of type {rewards_RT.dtype}: expected float32 or float64, because the credit of turns "
            "does not fit into less. Remedy: leave rm_scores as the rollout writes them."
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


def _first_tokens(mask_RT: torch.Tensor) -> torch.Tensor:
    """(R, T) where the turn of each token starts; of a token outside of turns, the turn before it."""
    import torch

    positions_RT = torch.arange(mask_RT.shape[1], device=mask_RT.device).expand_as(mask_RT)
    opens_RT = mask_RT.clone()
    opens_RT[:, 1:] &= ~mask_RT[:, :-1]
    return torch.where(opens_RT, positions_RT, 0).cummax(dim=1).values
