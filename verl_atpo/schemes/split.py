"""The scheme ``split``: the tree's gradient is the policy gradient for any expansions (``credit.weights=split``).

Strata. The initial chains but the last are *slots*; each slot is a chain with the expansions that were grown from it.
The last initial chain and all chains newly grown are the *pool*. Slots and pool weigh 1/M each. Inside the pool the
chains weigh the same; inside a slot a turn that was sampled n times from a context weighs w(context)/n each time.

Why it is unbiased. Let g be the gradient of the expected outcome J. Inside a slot the number n of samples of a context
is fixed before any of them is looked at: the depth of an expansion depends on other chains only
(``expansion.strategy=other_chains``), and whether the chain gets there on the turns above. Going down the tree, the
mean over n samples is then as good as a single one: every slot estimates g without bias, and so does every chain of the
pool, however many there are. The strata's weights are constants. A turn's value is the mean of what lies below it, by
the same argument. Its baseline is the mean value of the *other* strata, whose expectation is J for any sample of this
stratum, so it adds E[grad log pi] * J = 0.

The estimate of the gradient is the sum over turns of w * (V - baseline) * grad log pi(turn).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from verl_atpo.method.credit import node_values
from verl_atpo.method.scheme import Known, register_scheme
from verl_atpo.schemes.paper import Paper
from verl_atpo.tree.tree import ROOT, TurnTree


@register_scheme
class Split(Paper):
    """Credit in which turns of one context share its weight, and a turn is compared with the other strata.

    Advantage of turn u: rows * w(u) * (V(u) - baseline(u)) / rows that hold u, with the weights of
    :func:`split_weights` and the baselines of :func:`split_advantages`; V is the mean over children. The mean over rows
    is then the sum over turns.
    """

    name = "split"

    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        values = node_values(tree, self.config.backup, self.config.tool_rewards)
        return values, list(row_advantages(tree, [value or 0.0 for value in values]))


def split_weights(tree: TurnTree) -> list[float]:
    """Compute weight w of every turn, by index; turns of a depth weigh at most 1 together, first turns exactly 1.

    Args:
        tree: with at least one initial chain.
    """
    slots, pool = _strata(tree)
    weights = [0.0] * len(tree.nodes)
    weights[ROOT] = 1.0
    for first in slots:
        weights[first] = 1.0 / (len(slots) + 1)
    for first in pool:
        weights[first] = 1.0 / (len(slots) + 1) / len(pool)
    for node in tree.nodes:
        if node.index != ROOT:
            for child in node.children:
                weights[child] = weights[node.index] / len(node.children)
    return weights


def split_advantages(tree: TurnTree, values: Sequence[float]) -> list[float]:
    """Compute value minus baseline of every turn, by index; the root's is 0.

    A turn's baseline is the mean value of the other strata. With a single stratum, that of a tree with one initial
    chain, it is the mean of the pool's other chains, and 0 if there is none.

    Args:
        tree: the tree.
        values: value per node, each the mean over its children.
    """
    slots, pool = _strata(tree)
    of_slots = [values[first] for first in slots]
    of_pool = [values[first] for first in pool]
    baselines = [0.0] * len(tree.nodes)
    for first, value in zip(slots, of_slots, strict=True):
        baselines[first] = (math.fsum(of_slots) - value + _mean(of_pool)) / len(slots)
    for number, first in enumerate(pool):
        others = of_pool[:number] + of_pool[number + 1 :]
        baselines[first] = _mean(of_slots) if slots else _mean(others)
    for node in tree.nodes[1:]:
        if node.parent != ROOT:
            baselines[node.index] = baselines[node.parent]
    return [0.0, *(value - baseline for value, baseline in zip(values[1:], baselines[1:], strict=True))]


def row_advantages(tree: TurnTree, values: Sequence[float]) -> list[float]:
    """Compute each turn's advantage in every row that holds it, by index: weight times advantage, over these rows.

    Times the number of rows, so that the mean over rows is the sum over turns. Arguments as :func:`split_advantages`.
    """
    rows = [int(node.is_leaf) for node in tree.nodes]
    for node in reversed(tree.nodes[1:]):
        rows[node.parent] += rows[node.index]
    weighted = zip(split_weights(tree), split_advantages(tree, values), rows, strict=True)
    return [rows[ROOT] * weight * advantage / count for weight, advantage, count in weighted]


def _strata(tree: TurnTree) -> tuple[list[int], list[int]]:
    """Return the first turns of the slots, and of the pool's chains.

    Raises:
        ValueError: no initial chain.
    """
    firsts = tree.nodes[ROOT].children
    initial = [first for first in firsts if tree.nodes[first].round == 0]
    if not initial:
        raise ValueError("The tree has no initial chain: expected one at least, with round 0.")
    return initial[:-1], [initial[-1], *(first for first in firsts if tree.nodes[first].round > 0)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
