"""Decomposition of every turn's advantage into value, baseline and scale, for the dump and the viewer.

The terms follow from the values and the settings. Where they do not add up to the scheme's advantages, nothing is
reported; such a scheme may note its own terms.
"""

from __future__ import annotations

from verl_atpo.config import AdvantageMode, Contexts, CreditConfig
from verl_atpo.method.credit import context_values
from verl_atpo.method.scheme import Credit
from verl_atpo.report.record import Difference
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree

TOLERANCE = 1e-6
"""Largest relative difference of an advantage from the sum of its terms that counts as rounding."""

Terms = list[list[Difference] | None]
"""Terms of every node, by index; ``None`` where they are not known."""


def context_numbers(tree: TurnTree, settings: CreditConfig) -> list[int]:
    """Number the context of every node, by index, as the credit groups them; -1 for the root."""
    return group_contexts(tree, settings.contexts).context


def differences_of(tree: TurnTree, credit: Credit, settings: CreditConfig) -> Terms:
    """Compute the terms of every node's advantage.

    Args:
        tree: finished, or what there is of a tree that failed.
        credit: credit of its turns.
        settings: ``algorithm.atpo.credit``.
    """
    unknown: Terms = [None] * len(tree.nodes)
    root = credit.values[ROOT]
    if root is None:
        return unknown
    made = _Terms(tree, credit, settings, root).all()
    for advantage, terms in zip(credit.advantages, made, strict=True):
        if terms is not None and advantage is not None:
            total = sum(term["scale"] * (term["value"] - term["baseline"]) for term in terms)
            if not abs(total - advantage) <= TOLERANCE * max(1.0, abs(advantage)):
                return unknown
    return made


class _Terms:
    """Computation of the terms of one tree.

    Args:
        tree: the tree.
        credit: credit of its turns.
        settings: settings of the credit.
        root: value of the prompt.
    """

    def __init__(self, tree: TurnTree, credit: Credit, settings: CreditConfig, root: float) -> None:
        values = credit.values
        self.tree, self.values, self.mode = tree, values, settings.advantage
        self.zero, self.factor, self.root = credit.zero, credit.factor, root
        self.merged = settings.contexts is not Contexts.SEPARATE
        grouping = group_contexts(tree, settings.contexts)
        averages = context_values(tree, values, settings.backup, grouping)
        parents = [None if node.index == ROOT else values[node.parent] for node in tree.nodes]
        self.local = averages if self.merged else parents
        self.count = {
            index: sum(values[each] is not None for each in group) for group in grouping.siblings for index in group
        }
        self.shrunk = {ROOT: root}

    def all(self) -> Terms:
        """Terms of all nodes, by index."""
        terms: Terms = [None]
        for node in self.tree.nodes[1:]:
            value, local = self.values[node.index], self.local[node.index]
            self.shrunk[node.index] = before = self.shrunk[node.parent]
            if value is None or local is None:
                terms.append(None)
                continue
            count = self.count[node.index]
            self.shrunk[node.index] = (before + (count - 1) * local) / count
            terms.append(self._turn(node.index, value, local))
        return terms

    def _turn(self, index: int, value: float, local: float) -> list[Difference]:
        prompt = self._term(value, self.root, "prompt")
        if self.mode is AdvantageMode.VALUE:
            return [self._term(value, self.zero, "leaves" if self.zero else "")]
        if self.mode is AdvantageMode.DIFF_GLOBAL:
            return [prompt]
        if self.mode is AdvantageMode.DIFF_CONTEXT:
            return [self._shrunk(index, value)]
        if self.mode is AdvantageMode.DIFF_LOCALGLOBAL:
            return [self._local(index, value, local), prompt]
        return [self._local(index, value, local)]

    def _local(self, index: int, value: float, local: float) -> Difference:
        """Make the difference to the average of the turns sampled in the same context, the turn itself included."""
        parent = self.tree.nodes[index].parent
        term = self._term(value, local, "context" if self.merged else "prompt" if parent == ROOT else "parent")
        if self.merged:
            term["samples"] = self.count[index]
        return term

    def _shrunk(self, index: int, value: float) -> Difference:
        """Make the difference to the context's average, shrunk to the previous turn's baseline by the turn's share."""
        parent, count = self.tree.nodes[index].parent, self.count[index]
        before, source = self.shrunk[parent], "prompt" if parent == ROOT else "before"
        if count < 2:
            return self._term(value, before, source)
        term = self._term(value, self.shrunk[index], "context")
        term["samples"], term["prior"], term["prior_from"], term["prior_share"] = count, before, source, 1.0 / count
        return term

    def _term(self, value: float, baseline: float, source: str) -> Difference:
        return Difference(value=value, baseline=baseline, baseline_from=source, scale=self.factor)
