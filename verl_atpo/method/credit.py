"""Turn-wise credit assignment (the paper's term): outcome rewards become the values and advantages of turns.

Three steps, each written once and used by the estimator on tensors and by everything else on floats:

1. :func:`node_values`: a leaf is worth its reward, an inner node an average of what lies below it;
2. :func:`normalization`: the outcomes of one tree are brought to a common scale;
3. :func:`turn_advantage`: the advantage of a turn from its value, its parent's and the root's.

The averages of step 1 are weighted means whose weights do not depend on the rewards. So scaling the values (which the
estimator does) equals scaling the rewards before the average (which the paper does).

``None`` stands for a value that is not known; it is left out of every average and never counts as 0. Pure Python.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from verl_atpo.config import AdvantageMode, Backup, Contexts, CreditConfig, Normalize, Weights
from verl_atpo.method.returns import carried_returns, leaf_returns
from verl_atpo.method.split import row_advantages
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree

EPSILON = 1e-6
"""Added to the standard deviation before dividing by it."""

EQUAL = 2.0**-21
"""Outcomes of a group that differ by less than this share of the largest count as equal: float32 rounding."""

Number: TypeAlias = Any
"""A float, or a tensor: what is written with it is arithmetic that both understand."""


def node_values(
    tree: TurnTree, backup: Backup, tool_rewards: float = 0.0, contexts: Contexts = Contexts.SEPARATE
) -> list[float | None]:
    """Value of every node, its return to go, from the rewards as they stand.

    A leaf's value is its reward. An inner node's is, over the children (``leaf_mean``: the leaves below) whose
    value is known, their mean or (``child_softmax``) their mean weighted with the softmax of the children's mean NLL.
    Added to either is ``tool_rewards`` times what tools gave for the calls behind the turn. With ``contexts=merged``
    the children of all copies of a turn count for each of them, one by one.

    Returns:
        One value per node, by index; ``None`` where no reward is known below the node.
    """
    values: list[float | None] = [
        None if node.reward is None else node.reward + tool_rewards * node.tool_reward for node in tree.nodes
    ]
    leaves = _known_leaves(tree)
    for copies in reversed(group_contexts(tree, contexts).copies):  # what follows comes later, so it is done first
        known = [child for index in copies for child in tree.nodes[index].children if leaves[child]]
        if not known:
            continue
        worth = _average(tree, known, values, leaves, backup)
        for node in (tree.nodes[index] for index in copies):
            if leaves[node.index] and not node.is_leaf:
                values[node.index] = tool_rewards * node.tool_reward + worth
    return values


def context_values(tree: TurnTree, values: Sequence[float | None], credit: CreditConfig) -> list[float | None]:
    """What the context of every turn is worth, by index: the average value of the turns sampled in it.

    In a tree with ``contexts=separate`` it is the parent's value less what tools gave for the parent's own calls.

    Args:
        tree: the tree.
        values: of its nodes, by index, from :func:`node_values`.
        credit: names the average and the contexts.

    Returns:
        ``None`` for the root, and where no value is known in the context.
    """
    leaves = _known_leaves(tree)
    worth: list[float | None] = [None] * len(tree.nodes)
    for siblings in group_contexts(tree, credit.contexts).siblings:
        known = [index for index in siblings if leaves[index]]
        if known:
            average = _average(tree, known, values, leaves, credit.backup)
            for index in siblings:
                worth[index] = average
    return worth


def carried_values(tree: TurnTree, credit: CreditConfig) -> list[float | None]:
    """What a tree's rows carry of every node, by index: its value, or what its advantage is read from.

    With ``weights=split`` it is the root's value plus what :func:`~verl_atpo.method.split.row_advantages` says of the
    turn, so that ``diff_global`` gives just that, scaled as ``normalize`` says.
    """
    values = node_values(tree, credit.backup, credit.tool_rewards, credit.contexts)
    if credit.carries_values:
        return values
    if credit.weights is Weights.PER_LEAF:
        siblings = group_contexts(tree, credit.contexts).siblings
        return carried_returns(tree, values, context_values(tree, values, credit), siblings, credit)
    known = [value or 0.0 for value in values]
    return [known[ROOT] + advantage for advantage in row_advantages(tree, known)]


def _known_leaves(tree: TurnTree) -> list[int]:
    """Leaves of known reward below every node, by index; of a leaf itself 1, or 0."""
    leaves = [int(node.reward is not None) for node in tree.nodes]
    for node in reversed(tree.nodes[1:]):  # children come after their parent, so they are done first
        leaves[node.parent] += leaves[node.index]
    return leaves


def _average(
    tree: TurnTree, nodes: Sequence[int], values: Sequence[float | None], leaves: Sequence[int], backup: Backup
) -> float:
    """Average value of nodes that all have one, at least one node."""
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
    """What normalisation has to know of a group's outcomes: floats for one group, tensors of shape (G,) for many.

    Attributes:
        size: how many there are.
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
        """Those of one group, which has at least one."""
        mean = math.fsum(rewards) / len(rewards)
        deviations = [abs(reward - mean) for reward in rewards]
        squares = math.fsum(deviation**2 for deviation in deviations)
        return Outcomes(len(rewards), mean, squares, max(deviations), max(map(abs, rewards)))


def normalization(outcomes: Outcomes, normalize: Normalize) -> tuple[Number, Number]:
    """Offset and factor that bring a group's values to a common scale: ``(value - offset) * factor``.

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
    """Advantage of a turn.

    Args:
        mode: which one. The baseline of ``diff_context`` takes more than parent and root, so its rows carry the root's
            value plus the advantage (:func:`~verl_atpo.method.returns.carried_returns`).
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


def node_advantages(tree: TurnTree, values: Sequence[float | None], mode: AdvantageMode) -> list[float | None]:
    """Advantage of every node.

    Args:
        tree: the tree.
        values: of its nodes, by index, from :func:`node_values`.
        mode: how an advantage is made of values.

    Returns:
        One advantage per node; the root's is its own value; ``None`` where the value is.
    """
    root = values[ROOT]
    advantages = [root]
    for node, value in zip(tree.nodes[1:], values[1:], strict=True):
        parent = values[node.parent]
        known = value is not None and parent is not None and root is not None
        advantages.append(turn_advantage(mode, value, parent, root) if known else None)
    return advantages


def tree_advantages(tree: TurnTree, credit: CreditConfig) -> list[float | None]:
    """What the estimator gives the tokens of each node's turn, by index: all three steps on one tree."""
    returns = leaf_returns(tree, credit.tool_rewards)
    offset, factor = normalization(Outcomes.of([each for each in returns if each is not None]), credit.normalize)
    values = carried_values(tree, credit)
    scaled = [None if value is None else (value - offset) * factor for value in values]
    return node_advantages(tree, scaled, credit.advantage)
