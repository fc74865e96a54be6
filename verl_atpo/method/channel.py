"""The value channel: how the values of a tree travel from the rollout to the estimator inside token-level rewards.

verl's trainer hands an estimator token-level rewards, mask, settings and uids, and nothing else of a rollout's. So
:func:`write_values` writes the values along a trajectory into its row as potential differences, and :func:`read_values`
adds them up again. What verl itself does with such a row stays right: it sums to the outcome reward.

    token 0                     the root's value
    token 1                     V_1 - V_root: the running sum at token 1 is the first turn's value
    first token of turn k >= 2  V_k - V_(k-1): the running sum there is the turn's value
    the first free token        MARK, and -MARK on the next one, so that nothing is added

A group with a MARK in any of its rows is a tree; without one its rows are plain chains, whatever rewards they carry on
whatever tokens. A row of at least five tokens always has room for a MARK.

The writer is pure Python, the reader needs torch and imports it when it is called.
Shapes: rows R (all trajectories of the batch), tokens T (right-padded responses), groups G (one per uid).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from verl_atpo.method.potentials import LARGEST as LARGEST
from verl_atpo.method.potentials import MARK, as_float64, first_tokens, float32, write_potentials
from verl_atpo.method.potentials import is_marked as is_marked

if TYPE_CHECKING:
    import torch


def write_values(
    turn_values: Sequence[float],
    turn_starts: Sequence[int],
    root_value: float,
    length: int,
    outcome: float | None = None,
) -> list[float]:
    """Token-level rewards of one trajectory that carry its turns' values.

    Every entry is a float32 and makes up for the rounding of those before it, so that errors do not add up.

    Args:
        turn_values: raw (not normalised) values V_1 .. V_n of the trajectory's turns; the last is the outcome reward.
        turn_starts: index in the response of each turn's first token. The first is 0, the second at least 2, because
            an observation of at least one token lies between two turns.
        root_value: V_root.
        length: tokens in the response. What a turn that starts behind them would carry goes to the last token.
        outcome: the outcome reward, where it is not the last value: the last token makes the row add up to it.

    Returns:
        ``length`` rewards. One token carries just the outcome; two tokens of more than one turn cannot show V_1.

    Raises:
        ValueError: starts that are not as above, values and starts of different number, values that are not finite or
            whose differences float32 cannot hold.

    Example:
        Values 0.5 (root), 0.75, 1.0; turn 1 is tokens 0-2, tokens 3-4 are an observation, turn 2 is tokens 5-6:

        >>> row = write_values([0.75, 1.0], [0, 5], 0.5, 7)
        >>> tuple(0.0 if abs(reward) == MARK else reward for reward in row)
        (0.5, 0.25, 0.0, 0.0, 0.0, 0.25, 0.0)
        >>> row.index(MARK), row.index(-MARK)
        (2, 3)
    """
    _check(turn_values, turn_starts, root_value, length)
    if length == 1:
        return [float32(turn_values[-1] if outcome is None else outcome)]
    # Turns that were cut off all fall on the last token, where the last one, the outcome, stays.
    last = length - 1
    potentials = {0: root_value}
    potentials |= {min(max(start, 1), last): value for start, value in zip(turn_starts, turn_values, strict=True)}
    if outcome is not None:
        potentials[last] = outcome
    return write_potentials(potentials, length)


def _check(turn_values: Sequence[float], turn_starts: Sequence[int], root_value: float, length: int) -> None:
    if not turn_values or len(turn_values) != len(turn_starts):
        raise ValueError(f"{len(turn_values)} values for {len(turn_starts)} turns: expected one each, at least one.")
    if not all(map(math.isfinite, [root_value, *turn_values])):
        raise ValueError(f"values {list(turn_values)} below root {root_value}: expected finite numbers.")
    if length < 1:
        raise ValueError(f"length={length}: expected a response of at least one token.")
    ordered = all(before + 1 < after for before, after in itertools.pairwise(turn_starts))
    if turn_starts[0] != 0 or not ordered:
        raise ValueError(
            f"turn_starts={list(turn_starts)}: expected 0 first, then rising by at least 2 (a sampled token and an "
            "observation token)."
        )


class Values(NamedTuple):
    """What the rows of a batch say; tokens outside of turns hold anything.

    Attributes:
        value_RT: V of each token's turn.
        parent_RT: V of the turn before, the root's for a first turn.
        root_R: V of each row's root.
        outcome_R: outcome reward.
        trees: whether any row comes from a tree.
    """

    value_RT: torch.Tensor
    parent_RT: torch.Tensor
    root_R: torch.Tensor
    outcome_R: torch.Tensor
    trees: bool


def read_values(rewards_RT: torch.Tensor, mask_RT: torch.Tensor, group_R: torch.Tensor) -> Values:
    """Read the values of all rows back, in float64.

    A plain chain's turns are worth its outcome, and its root the mean outcome of the group. So is the root of a tree
    that has nothing but responses of one token.

    Args:
        rewards_RT: float32, float64 or integer.
        mask_RT: 1 on sampled tokens. Turns may be masked; their values still count in the running sum.
        group_R: int, number of each row's group.

    Raises:
        ValueError: a type that cannot carry the channel, rewards that are not finite float32 numbers, or rows of one
            tree that start with different root values.
    """
    import torch

    rewards_RT = as_float64(rewards_RT)
    marked_R = (rewards_RT == MARK).any(dim=1)
    rewards_RT = torch.where(rewards_RT.abs() == MARK, 0.0, rewards_RT)
    outcome_R = rewards_RT.sum(dim=1)
    groups = int(group_R.max()) + 1 if group_R.numel() else 0
    tree_G = torch.zeros(groups, dtype=torch.bool, device=group_R.device)
    tree_G[group_R[marked_R]] = True
    tree_R = tree_G[group_R]
    root_R = _root_values(rewards_RT, mask_RT, outcome_R, tree_R, group_R)
    value_RT, parent_RT = _turn_values(rewards_RT, mask_RT.bool(), outcome_R, tree_R, root_R)
    return Values(value_RT, parent_RT, root_R, outcome_R, trees=bool(tree_G.any()))


def _turn_values(
    rewards_RT: torch.Tensor,
    mask_RT: torch.Tensor,
    outcome_R: torch.Tensor,
    tree_R: torch.Tensor,
    root_R: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value of each token's turn and of the turn before, both (R, T).

    All tokens of a turn read the running sum at its first token, so what a cut-off turn left on the row's last token
    does not reach them.
    """
    import torch

    running_RT = rewards_RT.cumsum(dim=1)
    if running_RT.shape[1] > 1:
        running_RT[:, 0] = running_RT[:, 1]
    running_RT = torch.where(tree_R[:, None], running_RT, outcome_R[:, None])
    start_RT = first_tokens(mask_RT)
    before_RT = running_RT.gather(1, (start_RT - 1).clamp(min=0))
    return running_RT.gather(1, start_RT), torch.where(start_RT <= 1, root_R[:, None], before_RT)


def _root_values(
    rewards_RT: torch.Tensor,
    mask_RT: torch.Tensor,
    outcome_R: torch.Tensor,
    tree_R: torch.Tensor,
    group_R: torch.Tensor,
) -> torch.Tensor:
    """(R,) value of each row's root.

    A response of one token holds just its outcome, so only rows with something past token 0 tell the root's value.
    """
    told_R = tree_R & (mask_RT[:, 1:].bool().any(dim=1) | (rewards_RT[:, 1:] != 0).any(dim=1))
    first_R = rewards_RT[:, 0]
    groups = int(group_R.max()) + 1 if group_R.numel() else 0
    lowest_G = first_R.new_full((groups,), math.inf).scatter_reduce(0, group_R[told_R], first_R[told_R], "amin")
    highest_G = first_R.new_full((groups,), -math.inf).scatter_reduce(0, group_R[told_R], first_R[told_R], "amax")
    if (highest_G > lowest_G).any():
        odd = int((highest_G > lowest_G).nonzero()[0])
        raise ValueError(
            f"the rows of one tree start with different values ({lowest_G[odd]:g} to {highest_G[odd]:g}): expected the "
            "root's value, as verl_atpo's rollout wrote it. Remedy: leave rm_scores as they are, and nothing but trees "
            "in their groups."
        )
    size_G = group_R.bincount()
    mean_G = outcome_R.new_zeros(groups).index_add(0, group_R, outcome_R) / size_G
    return mean_G.where(lowest_G.isinf(), lowest_G)[group_R]
