"""The scheme ``shrunk``: one baseline per turn, shrunk from its context to the prompt (``credit.scheme=shrunk``).

The value of a turn is the precision-weighted mean of the outcomes below it. Its baseline is the posterior mean of the
context it was sampled in, given all trajectories that do not go through this very turn: those that sampled a turn in an
equal context inform most, the others through the contexts before it. :mod:`verl_atpo.method.posterior` has the
model. No turn is in its own baseline, so no baseline biases the gradient.

- Chains that share nothing: outcome minus the mean outcome of the other chains, which is RLOO (arXiv 2402.14740).
- Many turns sampled in one context: value minus the mean of the others in it.
- Nothing but the trajectories through a turn: there is nothing to compare it with, and its advantage is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from verl_atpo.config import ROOT_KEY, AdvantageMode, AtpoConfig, Backup, Contexts, Normalize
from verl_atpo.method.credit import Number, leaf_returns
from verl_atpo.method.posterior import ContextTree, Messages
from verl_atpo.method.scheme import Credit, Known, Scheme, register_scheme
from verl_atpo.method.squared_score import muting, squared_score
from verl_atpo.settings import refuse
from verl_atpo.tree.contexts import Grouping, along_paths, group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree


@register_scheme
class Shrunk(Scheme):
    """Credit of a turn by its value minus the posterior mean of its context from all other trajectories.

    With the shares U_k that earlier trees have left undecided after k turns (``tree.undecided``), D_k = U_k - U_(k+1):

        value of a turn   precision-weighted mean over the turns after it; of a last turn its outcome
        precision         1 / U_k of an outcome for its turn's context, 1 / (D_k + 1 / sum of precisions) of other turns
        baseline          precision-weighted mean of the other turns of the context and of what is known from before it

    ``credit.contexts`` says what one context is, where all that came before is equal too. ``credit.advantage`` and
    ``backup`` have to be their defaults. A z-score divides by the deviation of leave-one-out differences, so that
    chains get GRPO's advantages; with ``normalize=center`` they get RLOO's.
    """

    name = "shrunk"

    def __init__(self, atpo: AtpoConfig) -> None:
        super().__init__(atpo)
        if self.config.contexts is Contexts.STATES:
            raise refuse(
                f"{ROOT_KEY}.credit.contexts",
                "states",
                "with credit.scheme=shrunk equal observations after different turns are not one context. Set "
                "credit.contexts=merged, or separate",
            )
        for name, default in (("advantage", AdvantageMode.VALUE), ("backup", Backup.CHILD_SOFTMAX)):
            given = getattr(self.config, name)
            if given is not default:
                raise refuse(
                    f"{ROOT_KEY}.credit.{name}",
                    given.value,
                    "credit.scheme=shrunk has values and baselines of its own. Set credit.scheme=null, or "
                    f"credit.{name}={default.value}",
                )

    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        outcome, gain = centred_returns(tree, self.config.tool_rewards)
        grouping = group_contexts(tree, self.config.contexts)
        weights = _squared_scores(tree) if self.config.baseline_weights else None
        found = estimates(tree, grouping, tree.undecided, outcome, gain, weights)
        share = self._share(sum(each is not None for each in outcome))
        return found.values, [None if each is None else each * share for each in found.advantages]

    def credit(self, tree: TurnTree, paths: Sequence[Sequence[int]] | None = None, answers: Any = None) -> Credit:
        found = super().credit(tree, paths, answers)
        if not found.rows:
            return found
        return dataclasses.replace(found, notes={"differences": self._differences(tree, found)})

    def chain(self, outcome: Number, mean: Number, zero: Number, first: Number) -> Number:
        """Compute the advantage of a plain chain's turns: its outcome minus a baseline of own and other outcomes."""
        return outcome - mean

    def _share(self, leaves: int) -> float:
        """Compute the deviation of outcomes over that of leave-one-out differences."""
        zscore = self.config.normalize in (Normalize.ZSCORE, Normalize.ZSCORE_SAMPLE)
        return (leaves - 1) / leaves if zscore and leaves > 1 else 1.0

    def _differences(self, tree: TurnTree, credit: Credit) -> list[list[dict[str, Any]]]:
        """Describe each turn's advantage as one difference, for the dump."""
        scale = credit.factor * self._share(sum(node.reward is not None for node in tree.nodes))
        mute = self.config.mute_above
        factors = [1.0] * len(tree.nodes) if mute is None else muting(tree, mute)
        context = along_paths(tree, group_contexts(tree, self.config.contexts)).context
        sampled = Counter(here for here, value in zip(context, credit.values, strict=True) if value is not None)
        described: list[list[dict[str, Any]]] = []
        for node, value, advantage in zip(tree.nodes, credit.values, credit.advantages, strict=True):
            if node.index == ROOT or value is None or advantage is None:
                described.append([])
                continue
            factor = scale * factors[node.index]
            beside = sampled[context[node.index]]
            difference: dict[str, Any] = {
                "value": value,
                "baseline": value - advantage / factor if factor else value,
                "scale": scale,
            }
            difference |= {"weight": factors[node.index], "samples": beside - 1}
            difference |= {"baseline_from": "context" if beside > 1 else "chains"}
            described.append([difference])
        return described


def centred_returns(tree: TurnTree, tool_rewards: float) -> tuple[Known, list[float]]:
    """Compute each leaf's return to go from its context on, and every turn's gain from tools.

    A turn is not credited with rewards before it. So its gain is its reward minus the mean over the trajectories
    that have a turn of its number, and a leaf's return is without the gains before it.

    Args:
        tree: the tree.
        tool_rewards: weight of the rewards that tools gave; 0 leaves outcomes as they are.
    """
    returns = leaf_returns(tree, tool_rewards)
    gain = [0.0] * len(tree.nodes)
    if not tool_rewards:
        return returns, gain
    rows = [tree.path(node.index) for node in tree.nodes if node.reward is not None]
    for depth in range(max(map(len, rows), default=0)):
        there = [row[depth] for row in rows if len(row) > depth]
        usual = math.fsum(tree.nodes[index].tool_reward for index in there) / len(there)
        for index in there:
            gain[index] = tool_rewards * (tree.nodes[index].tool_reward - usual)
    collected = [0.0] * len(tree.nodes)
    for node in tree.nodes[1:]:
        collected[node.index] = collected[node.parent] + (gain[node.parent] if node.parent != ROOT else 0.0)
    pairs = zip(returns, collected, strict=True)
    return [None if each is None else each - before for each, before in pairs], gain


def _squared_scores(tree: TurnTree) -> list[float]:
    """Compute every turn's squared score over the mean of the tree, by node; 1 if all are 0."""
    squares = [0.0, *(squared_score(tree.turn(node.index)) for node in tree.nodes[1:])]
    usual = math.fsum(squares) / (len(squares) - 1)
    return [max(square / usual, LEAST_WEIGHT) if usual else 1.0 for square in squares]


LEAST_WEIGHT = 1e-3
"""Least weight of a turn in the baseline of others, so that turns that were certain have a mean too."""


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Values and baselines of a tree's turns, by node; None for turns without a known outcome.

    Attributes:
        values: value of each turn, and of the prompt.
        baselines: baseline of each turn; None for the root, and where there is no other trajectory.
        peers: turns that other trajectories sampled in an equal context.
    """

    values: list[float | None]
    baselines: list[float | None]
    peers: list[int]

    @property
    def advantages(self) -> list[float | None]:
        """Value minus baseline of every turn, on the scale of the outcome; 0 where there is nothing to compare with."""
        pairs = zip(self.values, self.baselines, strict=True)
        return [None if value is None else 0.0 if base is None else value - base for value, base in pairs]


def estimates(
    tree: TurnTree,
    grouping: Grouping,
    undecided: Sequence[float],
    outcome: Sequence[float | None],
    gain: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> Estimates:
    """Compute values and baselines of all turns of a tree.

    Args:
        tree: the tree.
        grouping: groups of turns sampled in equal contexts; not by states, whose paths differ.
        undecided: U_0, U_1, ...: share of the outcome's variance that is left after 0, 1, ... turns.
        outcome: by node, return of the trajectory that a leaf ends; None elsewhere, and where it is not known.
        gain: by node, what the turn's tools gave over what is usual at its depth; None for nothing.
        weights: by node, how much a turn counts in the baselines of others of its context, 1 being usual. With squared
            scores the mean of many is the baseline with the least variance (Greensmith, Bartlett and Baxter, 2004).
    """
    contexts = ContextTree.of(tree, grouping, outcome, gain or [0.0] * len(tree.nodes))
    messages = Messages(contexts, undecided, weights)
    values, baselines, peers = [messages.prompt], list[float | None]([None]), [0]
    for node in range(1, len(tree.nodes)):
        context = contexts.context[node]
        if context is None:
            values.append(None)
            baselines.append(None)
            peers.append(0)
            continue
        without = messages.without(node)
        values.append(messages.value(node).mean)
        baselines.append(None if without is None else without.mean)
        peers.append(len(contexts.turns[context]) - 1)
    return Estimates(values, baselines, peers)
