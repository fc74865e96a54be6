"""A²TGPO as a credit scheme: the gains of a tree's turns in its rows, and the outcome's advantage beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from verl_atpo.method.credit import Number, Outcomes, node_values, normalization
from verl_atpo.method.scheme import Credit, Known, Scheme, register_scheme
from verl_atpo.schemes.a2tgpo.gains import information_gains, mean_over_rows, row_credits
from verl_atpo.tree.tree import TurnTree


@register_scheme
class A2TGPO(Scheme):
    """A turn gets the z-score of its trajectory's outcome plus a discounted sum of z-scored information gains.

        advantage of turn k = z(outcome) + alpha D_k;  of the last turn z(outcome)
        clip range of turn k = (1 + beta (2 sigmoid(z_k) - 1)) times the usual one

    with D_k and z_k of :mod:`verl_atpo.schemes.a2tgpo.gains`. Rows carry alpha D_k, which is not scaled, and the change
    of the clip range as the second number of the turn.
    """

    name = estimator = "a2tgpo"
    carries_after = True

    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        """Values as ``paper`` has them; advantages are of rows, not of nodes: see :meth:`credit`."""
        return node_values(tree, self.config.backup), [None] * len(tree.nodes)

    def credit(self, tree: TurnTree, paths: Sequence[Sequence[int]] | None = None, answers: Any = None) -> Credit:
        """As in :class:`Scheme`; of a tree that failed before its questions were answered, values only."""
        plain = super().credit(tree, [], answers)
        if answers is None or not paths:
            return plain
        outcomes = [tree.nodes[path[-1]].reward or 0.0 for path in paths]
        zero, factor = normalization(Outcomes.of(outcomes), self.config.normalize)
        rows = row_credits(tree, answers.log_probs, paths, self.atpo.information_gain)
        scaled = [
            [(outcome - zero) * factor + turn.advantage for turn in row]
            for outcome, row in zip(outcomes, rows, strict=True)
        ]
        gains = information_gains(tree, answers.log_probs)
        return Credit(
            plain.values,
            mean_over_rows(paths, scaled, len(tree.nodes)),
            rows,
            outcomes,
            notes={"information_gain": gains},
        )

    def chain(self, outcome: Number, mean: Number, zero: Number, first: Number) -> Number:
        """Plain chains have no gains."""
        return 0.0 * outcome

    def scale(self, advantage: Number, outcome: Number, factor: Number) -> Number:
        """Gains are scaled already; the outcome's advantage is added."""
        return outcome + advantage
