"""The terms that an advantage is the sum of: value, baseline and scale of every turn, for the dump and the viewer.

They are derived from the settings and from what the scheme gave the turns, and hold only if they add up to it: for a
scheme that does something else, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl_atpo.config import AdvantageMode, Contexts, CreditConfig
from verl_atpo.method.credit import Outcomes, leaf_returns, normalization
from verl_atpo.method.scheme import Credit
from verl_atpo.report.record import Difference
from verl_atpo.tree.contexts import Grouping, group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree

TOLERANCE = 1e-6
"""Relative difference of an advantage from the sum of its terms that is rounding."""

Terms = list[list[Difference] | None]
"""Terms of every node, by index; ``None`` where they are not known."""


def contexts_of(tree: TurnTree, settings: CreditConfig) -> list[int]:
    """Number the context of every node, by index, as the credit groups them; -1 for the root."""
    return group_contexts(tree, settings.contexts).context


def differences_of(tree: TurnTree, credit: Credit, settings: CreditConfig) -> Terms:
    """Terms of every node's advantage.

    Args:
        tree: finished, or what there is of a tree that failed.
        credit: of its turns.
        settings: ``algorithm.atpo.credit``.
    """
    unknown: Terms = [None] * len(tree.nodes)
    known = [each for each in leaf_returns(tree, settings.tool_rewards) if each is not None]
    root = credit.values[ROOT]
    if not known or root is None:
        return unknown
    zero, factor = normalization(Outcomes.of(known), settings.normalize)
    made = _Terms(tree, credit, settings, zero, factor, root).all()
    for advantage, terms in zip(credit.advantages, made, strict=True):
        if terms is not None and advantage is not None:
            total = sum(term["scale"] * (term["value"] - term["baseline"]) for term in terms)
            if abs(total - advantage) > TOLERANCE * max(1.0, abs(advantage)):
                return unknown
    return made


class _Terms:
    """Terms of one tree in the making."""

    def __init__(
        self, tree: TurnTree, credit: Credit, settings: CreditConfig, zero: float, factor: float, root: float
    ) -> None:
        self.tree, self.values, self.advantages = tree, credit.values, credit.advantages
        self.mode, self.zero, self.factor, self.root = settings.advantage, zero, factor, root
        self.merged = settings.contexts is not Contexts.SEPARATE
        self.grouping: Grouping = group_contexts(tree, settings.contexts)
        self.siblings = {index: group for group in self.grouping.siblings for index in group}

    def all(self) -> Terms:
        terms: Terms = [None]
        for node in self.tree.nodes[1:]:
            value, advantage = self.values[node.index], self.advantages[node.index]
            terms.append(None if value is None or advantage is None else self._turn(node.index, value, advantage))
        return terms

    def _turn(self, index: int, value: float, advantage: float) -> list[Difference]:
        prompt = self._term(value, self.root, "prompt")
        if self.mode is AdvantageMode.VALUE:
            return [self._term(value, self.zero, "leaves" if self.zero else "")]
        if self.mode is AdvantageMode.DIFF_GLOBAL:
            return [prompt]
        if self.mode is AdvantageMode.DIFF_CONTEXT:
            return [self._shrunk(index, value, advantage)]
        if self.mode is AdvantageMode.DIFF_LOCALGLOBAL:
            local = value - (advantage / self.factor - (value - self.root)) if self.factor else value
            return [self._local(index, value, local), prompt]
        return [self._local(index, value, value - advantage / self.factor if self.factor else value)]

    def _local(self, index: int, value: float, baseline: float) -> Difference:
        """Difference to the average of the turns sampled in the same context, the turn itself included."""
        parent = self.tree.nodes[index].parent
        source = "context" if self.merged else "prompt" if parent == ROOT else "parent"
        term = self._term(value, baseline, source)
        if self.merged:
            term["samples"] = self._known(index)
        return term

    def _shrunk(self, index: int, value: float, advantage: float) -> Difference:
        """Difference to the context's average, shrunk to the baseline of the turn before by the turn's own share."""
        parent = self.tree.nodes[index].parent
        before, source = self._baseline(parent), "prompt" if parent == ROOT else "before"
        count = self._known(index)
        if count < 2 or not self.factor:
            return self._term(value, before, source)
        term = self._term(value, value - advantage / self.factor, "context")
        term["samples"], term["prior"], term["prior_from"], term["prior_share"] = count, before, source, 1.0 / count
        return term

    def _baseline(self, index: int) -> float:
        """Baseline of a node: of the root its value, of another what its advantage was measured against."""
        value, advantage = self.values[index], self.advantages[index]
        if index == ROOT or value is None or advantage is None or not self.factor:
            return self.root
        return value - advantage / self.factor

    def _known(self, index: int) -> int:
        """Number of turns of known value that were sampled in the context of one."""
        group: Sequence[int] = self.siblings[index]
        return sum(self.values[each] is not None for each in group)

    def _term(self, value: float, baseline: float, source: str) -> Difference:
        return Difference(value=value, baseline=baseline, baseline_from=source, scale=self.factor)
