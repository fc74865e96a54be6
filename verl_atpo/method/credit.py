"""From outcome rewards to the values and advantages of turns (paper: turn-wise credit assignment). Pure Python.

``None`` stands for a value that is not known; it is left out of every aggregate and never counts as 0.
All backups are weighted means whose weights do not depend on the rewards. So V is affine-equivariant:
normalising node values with the leaves' mean and deviation equals normalising the leaves before the backup.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence

from verl_atpo.config import AdvantageMode, Backup, Normalize
from verl_atpo.method.tree import ROOT, TurnTree

EPSILON = 1e-6
"""Added to the standard deviation before dividing by it."""

TINY = 2.0**-126
"""Smallest normal float32: how a root value of 0 is written, because token 0 of a tree's row is never 0."""


def reward_statistics(rewards: Sequence[float], normalize: Normalize, eps: float = EPSILON) -> tuple[float, float]:
    """Offset and scale that bring the leaf rewards of one tree to a common scale: ``(reward - offset) / scale``.

    A group of one has no spread to learn from: ``zscore`` and ``center`` make its reward 0, ``zscore_sample`` leaves
    it as it is (offset 0, deviation 1), as verl's GRPO does.
    """
    if normalize is Normalize.NONE or not rewards:
        return 0.0, 1.0
    mean = math.fsum(rewards) / len(rewards)
    if normalize is Normalize.CENTER:
        return mean, 1.0
    squares = math.fsum((reward - mean) ** 2 for reward in rewards)
    if normalize is Normalize.ZSCORE:
        return mean, math.sqrt(squares / len(rewards)) + eps
    if len(rewards) == 1:
        return 0.0, 1.0 + eps
    return mean, math.sqrt(squares / (len(rewards) - 1)) + eps


def normalize_rewards(rewards: Sequence[float], normalize: Normalize, eps: float = EPSILON) -> list[float]:
    """Leaf rewards of one tree on a common scale; see :func:`reward_statistics`."""
    offset, scale = reward_statistics(rewards, normalize, eps)
    return [(reward - offset) / scale for reward in rewards]


def node_values(tree: TurnTree, backup: Backup) -> list[float | None]:
    """Value of every node from the leaves' rewards as they stand.

    A leaf's value is its reward. An inner node's is, over the children (``leaf_mean``: the leaves below) whose
    value is known, their mean or (``child_softmax``) their mean weighted with the softmax of the children's mean NLL.

    Returns:
        One value per node, by index; ``None`` where no reward is known below the node.
    """
    values: list[float | None] = [node.reward for node in tree.nodes]
    leaves = [int(node.reward is not None) for node in tree.nodes]
    for node in reversed(tree.nodes):  # children come after their parent, so they are done first
        known = [child for child in node.children if values[child] is not None]
        if not known:
            continue
        leaves[node.index] = sum(leaves[child] for child in known)
        if backup is Backup.CHILD_SOFTMAX:
            weights = _softmax([tree.nodes[child].mean_nll or 0.0 for child in known])
        elif backup is Backup.LEAF_MEAN:
            weights = [leaves[child] / leaves[node.index] for child in known]
        else:
            weights = [1 / len(known)] * len(known)
        values[node.index] = math.fsum(
            weight * (values[child] or 0.0) for weight, child in zip(weights, known, strict=True)
        )
    return values


def node_advantages(tree: TurnTree, values: Sequence[float | None], mode: AdvantageMode) -> list[float | None]:
    """Advantage of every node: V, V - V_parent, V - V_root, or the sum of both differences.

    Args:
        tree: the tree.
        values: of its nodes, by index, from :func:`node_values`.
        mode: which of the four.

    Returns:
        One advantage per node; the root's is its own value; ``None`` where the value is.
    """
    return [_advantage(tree, values, mode, node.index) for node in tree.nodes]


def _advantage(tree: TurnTree, values: Sequence[float | None], mode: AdvantageMode, index: int) -> float | None:
    value, root = values[index], values[ROOT]
    if index == ROOT or value is None or root is None or mode is AdvantageMode.VALUE:
        return value
    parent = values[tree.nodes[index].parent]
    local = value - (root if parent is None else parent)
    if mode is AdvantageMode.DIFF_PARENT:
        return local
    return value - root + (local if mode is AdvantageMode.DIFF_LOCALGLOBAL else 0.0)


def _softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def shape_token_rewards(
    turn_values: Sequence[float], turn_starts: Sequence[int], root_value: float, length: int
) -> list[float]:
    """Write the values along one trajectory into its token-level rewards, as potential differences.

    Token 0 carries the root's value, token 1 carries V_1 - V_root, the first token of turn k >= 2 carries
    V_k - V_(k-1). So the running sum at a turn's first token (turn 1: at token 1) is the turn's value, and the row
    still sums to the outcome. Every entry is a float32, and each one makes up for the rounding of those before it,
    so neither the storage as float32 nor the number of turns adds up errors.

    Token 0 is never 0 (a root value of 0 is written as :data:`TINY`, which token 1 takes off again): that is how
    :mod:`verl_atpo.method.estimator` tells a tree's row from a chain's.

    Args:
        turn_values: raw (not normalised) values V_1 .. V_n of the trajectory's turns; the last is the outcome reward.
        turn_starts: index in the response of each turn's first token. The first is 0, the second at least 2, because
            an observation of at least one token lies between two turns.
        root_value: V_root.
        length: tokens in the response. What a turn that starts at ``length`` or later would carry goes to the last
            token, so that the sum still is the outcome.

    Returns:
        ``length`` rewards. A response of one token carries just the outcome; one of two tokens that had more than
        one turn cannot show V_1.

    Raises:
        ValueError: starts that are not as above, values and starts of different number, non-finite values.

    Example:
        Values 0.5 (root), 0.75, 1.0; turn 1 is tokens 0-2, tokens 3-4 are an observation, turn 2 is tokens 5-6:

        >>> shape_token_rewards([0.75, 1.0], [0, 5], 0.5, 7)
        [0.5, 0.25, 0.0, 0.0, 0.0, 0.25, 0.0]
    """
    _check_row(turn_values, turn_starts, root_value, length)
    if length == 1:
        return [_float32(turn_values[-1])]
    rewards = [0.0] * length
    rewards[0] = total = _float32(root_value) if abs(root_value) >= TINY else TINY
    # Turns that were cut off all fall on the last token, where the last one, the outcome, stays.
    last = length - 1
    potentials = {min(max(start, 1), last): value for start, value in zip(turn_starts, turn_values, strict=True)}
    for position, value in potentials.items():
        rewards[position] = _float32(value - total)
        total += rewards[position]
    return rewards


def _check_row(turn_values: Sequence[float], turn_starts: Sequence[int], root_value: float, length: int) -> None:
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


def _float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]
