"""Turn-wise credit assignment (the paper's term): from outcomes to values, from values to scaled differences.

Three steps, each written once and used by the estimator on tensors and by everything else on floats:

1. :func:`node_values`: a leaf's value is its reward, an inner node's an average of what lies below it;
2. :func:`turn_advantage`: the advantage of a turn from its value and its baselines;
3. :func:`normalization`: the outcomes of one tree are brought to a common scale.

The averages of step 1 are weighted means whose weights do not depend on the rewards. So scaling the values (which the
estimator does) equals scaling the rewards before the average (which the paper does).

``None`` stands for a value that is not known; it is left out of every average and never counts as 0. Pure Python.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from verl_atpo.config import AdvantageMode, Backup, Contexts, Normalize
from verl_atpo.tree.contexts import Grouping, group_contexts
from verl_atpo.tree.tree import TurnTree

EPSILON = 1e-6
"""Added to the standard deviation before dividing by it."""

EQUAL = 2.0**-21
"""Outcomes of a group that differ by less than this share of the largest count as equal: float32 rounding."""

Number: TypeAlias = Any
"""A float, or a tensor: what is written with it is arithmetic that both understand."""


def node_values(
    tree: TurnTree,
    backup: Backup,
    tool_rewards: float = 0.0,
    contexts: Contexts | Grouping = Contexts.SEPARATE,
) -> list[float | None]:
    """Compute the value of every node, its return to go, from unscaled rewards.

    A leaf's value is its reward. An inner node's is, over the children (``leaf_mean``: the leaves below) whose
    value is known, their mean or (``child_softmax``) their mean weighted with the softmax of the children's mean NLL.
    Added to either is ``tool_rewards`` times what tools gave for the calls after the turn. With ``contexts=merged``
    the children of all copies of a turn count for each of them, one by one.

    Args:
        tree: the tree.
        backup: names the average.
        tool_rewards: weight of the rewards that tools gave.
        contexts: definition of equal contexts, or the grouping of this tree if it is known already.

    Returns:
        One value per node, by index; ``None`` where no reward is known below the node.
    """
    grouping = contexts if isinstance(contexts, Grouping) else group_contexts(tree, contexts)
    values: list[float | None] = [
        None if node.reward is None else node.reward + tool_rewards * node.tool_reward for node in tree.nodes
    ]
    leaves = _known_leaves(tree)
    for copies in reversed(grouping.copies):  # what follows comes later, so it is done first
        known = [child for index in copies for child in tree.nodes[index].children if leaves[child]]
        if not known:
            continue
        average = _average(tree, known, values, leaves, backup)
        for node in (tree.nodes[index] for index in copies):
            if leaves[node.index] and not node.is_leaf:
                values[node.index] = tool_rewards * node.tool_reward + average
    return values


def context_values(
    tree: TurnTree, values: Sequence[float | None], backup: Backup, grouping: Grouping
) -> list[float | None]:
    """Compute the value of every turn's context, by index: the average value of the turns that were sampled in it.

    In a tree with ``contexts=separate`` it is the parent's value minus what tools gave for the parent's own calls.

    Args:
        tree: the tree.
        values: value per node, from :func:`node_values`.
        backup: names the average.
        grouping: groups of turns that were sampled in one context.

    Returns:
        ``None`` for the root, and where no value is known in the context.
    """
    leaves = _known_leaves(tree)
    of_contexts: list[float | None] = [None] * len(tree.nodes)
    for siblings in grouping.siblings:
        known = [index for index in siblings if leaves[index]]
        if known:
            average = _average(tree, known, values, leaves, backup)
            for index in siblings:
                of_contexts[index] = average
    return of_contexts


def collected(tree: TurnTree, tool_rewards: float) -> list[float]:
    """Rewards of tools on the way to each node, by index, without those of its own calls."""
    before = [0.0]
    for node in tree.nodes[1:]:
        parent = tree.nodes[node.parent]
        before.append(before[node.parent] + tool_rewards * parent.tool_reward)
    return before


def leaf_returns(tree: TurnTree, tool_rewards: float) -> list[float | None]:
    """Return of the trajectory that each leaf ends, by index; ``None`` for other nodes, and where none is known."""
    if tool_rewards == 0:
        return [node.reward for node in tree.nodes]
    return [
        None if node.reward is None else node.reward + before + tool_rewards * node.tool_reward
        for node, before in zip(tree.nodes, collected(tree, tool_rewards), strict=True)
    ]


def _known_leaves(tree: TurnTree) -> list[int]:
    """Leaves of known reward below every node, by index; of a leaf itself 1, or 0."""
    leaves = [int(node.reward is not None) for node in tree.nodes]
    for node in reversed(tree.nodes[1:]):  # children come after their parent, so they are done first
        leaves[node.parent] += leaves[node.index]
    return leaves


def _average(
    tree: TurnTree, nodes: Sequence[int], values: Sequence[float | None], leaves: Sequence[int], backup: Backup
) -> float:
    """Average the values of nodes that all have one, at least one node."""
    if backup is Backup.CHILD_SOFTMAX:
        weights = _softmax([tree.nodes[index].mean_nll or 0.0 for index in nodes])
    elif backup is Backup.LEAF_MEAN:
        total = sum(leaves[index] for index in nodes)
        weights = [leaves[index] / total for index in nodes]
    else:
        weights = [1 / len(nodes)] * len(nodes)
    return math.fsum(weight * (values[index] or 0.0) for weight, index in zip(weights, nodes, strict=True))


def _softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Statistics of a group's outcomes for normalisation: floats for one group, tensors of shape (G,) for many.

    Attributes:
        size: number of outcomes.
        mean: their mean.
        squares: sum of the squared deviations from it.
        widest: largest absolute deviation from it.
        largest: largest absolute outcome.
    """

    size: Number
    mean: Number
    squares: Number
    widest: Number
    largest: Number

    @classmethod
    def of(cls, rewards: Sequence[float]) -> Outcomes:
        """Compute the statistics of one group, which has at least one outcome."""
        mean = math.fsum(rewards) / len(rewards)
        deviations = [abs(reward - mean) for reward in rewards]
        squares = math.fsum(deviation**2 for deviation in deviations)
        return Outcomes(len(rewards), mean, squares, max(deviations), max(map(abs, rewards)))


def normalization(outcomes: Outcomes, normalize: Normalize) -> tuple[Number, Number]:
    """Compute offset and factor that bring a group's values to a common scale: ``(value - offset) * factor``.

    Where all outcomes are equal there is nothing to learn: the factor is exactly 0, not rounding over epsilon. This
    holds for a group of one too, but ``zscore_sample`` keeps its outcome (offset 0, deviation 1), as verl's GRPO does.
    """
    mean = outcomes.mean
    if normalize is Normalize.NONE:
        return 0.0 * mean, 0.0 * mean + 1.0
    alone = outcomes.size == 1
    differ = outcomes.widest > EQUAL * outcomes.largest
    if normalize is Normalize.CENTER:
        return mean, 1.0 * differ
    if normalize is Normalize.ZSCORE:
        return mean, 1.0 * differ / ((outcomes.squares / outcomes.size) ** 0.5 + EPSILON)
    one = 1.0 * alone
    deviation = (outcomes.squares / (outcomes.size - 1 + one)) ** 0.5 + one
    return mean * (1.0 - one), 1.0 * (differ | alone) / (deviation + EPSILON)


def turn_advantage(mode: AdvantageMode, value: Number, parent: Number, root: Number) -> Number:
    """Compute the advantage of a turn.

    Args:
        mode: formula. ``diff_context`` has a baseline per context in a tree; here it is the root's value.
        value: V of the turn; floats, or tensors that broadcast.
        parent: V of the turn before, the root's for a first turn.
        root: V of the root.
    """
    if mode is AdvantageMode.VALUE:
        return value
    if mode is AdvantageMode.DIFF_PARENT:
        return value - parent
    if mode in (AdvantageMode.DIFF_GLOBAL, AdvantageMode.DIFF_CONTEXT):
        return value - root
    return (value - parent) + (value - root)
