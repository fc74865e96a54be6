"""How what information gains give a turn travels inside token-level rewards, beside the outcome.

As in :mod:`verl_atpo.method.channel` a row's rewards are differences of potentials, it sums to its outcome, and a group
with a MARK in it is a tree, or chains that were grown like one. The potentials are others:

    first token of turn k      the advantage that its gain adds to the outcome's
    first token behind turn k  by which share its clip range is wider
    the last token             the outcome

The last turn has neither: what its first token reads is not looked at. There is always a token behind a turn that
another follows, for an observation separates them.

The writer is pure Python, the reader needs torch. Shapes: rows R, tokens T, groups G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from verl_atpo.method.information_gain import TurnCredit
from verl_atpo.method.potentials import MARK, as_float64, first_tokens, write_potentials

if TYPE_CHECKING:
    import torch


def write_credits(
    credits: Sequence[TurnCredit], spans: Sequence[tuple[int, int]], outcome: float, length: int
) -> list[float]:
    """Token-level rewards of one trajectory that carry what its turns' gains give.

    Args:
        credits: of its turns; that of the last one is not written.
        spans: first token of each turn in the response, and first one behind it.
        outcome: the outcome reward.
        length: tokens in the response; turns that start behind them are left out.

    Example:
        Turn 1 is tokens 0-1, token 2 an observation, turn 2 is tokens 3-5:

        >>> row = write_credits([TurnCredit(0.5, 0.25), TurnCredit()], [(0, 2), (3, 6)], 1.0, 6)
        >>> tuple(0.0 if abs(reward) == MARK else reward for reward in row)
        (0.5, 0.0, -0.25, -0.25, 0.0, 1.0)
    """
    potentials: dict[int, float] = {}
    for credit, (start, end) in zip(credits[:-1], spans[:-1], strict=True):
        if end < length:
            potentials |= {start: credit.advantage, end: credit.clip}
    if spans[-1][0] < length:
        potentials[spans[-1][0]] = 0.0
    potentials[length - 1] = outcome
    return write_potentials(potentials, length)


class Credits(NamedTuple):
    """What the rows of a batch say.

    Attributes:
        advantage_RT: what gains add to the outcome's advantage; 0 outside of turns and for last turns.
        clip_RT: on the first token behind a turn, by which share its clip range is wider; else 0.
        outcome_R: outcome reward.
        trees: whether any row carries gains.
    """

    advantage_RT: torch.Tensor
    clip_RT: torch.Tensor
    outcome_R: torch.Tensor
    trees: bool


def read_credits(rewards_RT: torch.Tensor, mask_RT: torch.Tensor, group_R: torch.Tensor) -> Credits:
    """Read all rows back, in float64; plain chains have no gains.

    Args:
        rewards_RT: float32, float64 or integer.
        mask_RT: 1 on sampled tokens. Turns may be masked.
        group_R: int, number of each row's group.

    Raises:
        ValueError: a type that cannot carry the channel, or rewards that are not finite float32 numbers.
    """
    import torch

    rewards_RT, mask_RT = as_float64(rewards_RT), mask_RT.bool()
    marked_R = (rewards_RT == MARK).any(dim=1)
    rewards_RT = torch.where(rewards_RT.abs() == MARK, 0.0, rewards_RT)
    groups = int(group_R.max()) + 1 if group_R.numel() else 0
    tree_G = torch.zeros(groups, dtype=torch.bool, device=group_R.device)
    tree_G[group_R[marked_R]] = True
    running_RT = rewards_RT.cumsum(dim=1)
    start_RT = first_tokens(mask_RT)
    last_R1 = start_RT[:, -1:]  # where the last turn starts
    counts_RT = tree_G[group_R][:, None] & (start_RT < last_R1)  # in a turn that another follows, or right behind it
    behind_RT = ~mask_RT
    behind_RT[:, 1:] &= mask_RT[:, :-1]
    behind_RT[:, 0] = False
    return Credits(
        advantage_RT=torch.where(counts_RT & mask_RT, running_RT.gather(1, start_RT), 0.0),
        clip_RT=torch.where(counts_RT & behind_RT, running_RT, 0.0),
        outcome_R=rewards_RT.sum(dim=1),
        trees=bool(tree_G.any()),
    )
