"""The scheme ``paper``: turn-wise credit as in the paper and its authors' code."""

from __future__ import annotations

from collections.abc import Sequence

from verl_atpo.config import AdvantageMode, Contexts
from verl_atpo.method.credit import Number, node_values, turn_advantage
from verl_atpo.method.scheme import Known, Scheme, register_scheme
from verl_atpo.tree.contexts import Grouping, group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree


@register_scheme
class Paper(Scheme):
    """Credit by values that go up the tree and are compared with the parent's or the root's.

    V(leaf) = outcome; V(inner node) = average of its children's values, as ``credit.backup`` says. Advantage of turn u,
    as ``credit.advantage`` says:

        value              V(u) - zero of the scale
        diff_parent        V(u) - V(parent of u)
        diff_global        V(u) - V(root)
        diff_localglobal   the sum of both differences
        diff_context       V(u) - b(u), see :meth:`compare`; not the paper's

    all times the factor of the scale (``credit.normalize``).
    """

    name = "paper"

    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        grouping = group_contexts(tree, Contexts.SEPARATE)
        values = node_values(tree, self.config.backup, contexts=grouping)
        parents = [None if node.index == ROOT else values[node.parent] for node in tree.nodes]
        return values, self.compare(tree, grouping, values, parents, zero)

    def compare(
        self,
        tree: TurnTree,
        grouping: Grouping,
        values: Known,
        of_contexts: Known,
        zero: float,
        shifts: Sequence[float] | None = None,
    ) -> Known:
        """Compute unscaled advantages of all nodes, by index; the root's is its own value.

        The baseline of ``diff_context`` is b(u) = (b(turn before u) + (n - 1) * local baseline of u) / n, where n turns
        of known value were sampled in the context of u, and b of the root is its value. Where nothing else was sampled
        in the context (n = 1) that is the tree's baseline, with many it is the context's.

        Args:
            tree: the tree.
            grouping: groups of its turns that were sampled in one context.
            values: V per node.
            of_contexts: local baseline per node.
            zero: zero of the scale.
            shifts: amount added to a turn where it is compared with the zero or the root; 0 by default.
        """
        root, mode = values[ROOT], self.config.advantage
        if root is None:
            return [None] * len(values)
        shrunk = (
            _shrunk(tree, grouping, values, of_contexts, shifts, root) if mode is AdvantageMode.DIFF_CONTEXT else None
        )
        advantages: Known = [root - zero]
        for index, (value, local) in enumerate(zip(values[1:], of_contexts[1:], strict=True), start=1):
            if value is None or local is None:
                advantages.append(None)
                continue
            shift = shifts[index] if shifts else 0.0
            own = value + shift - zero - (shrunk[index] if shrunk else 0.0)
            advantages.append(turn_advantage(mode, own, local + shift - zero, root - zero))
        return advantages

    def chain(self, outcome: Number, mean: Number, zero: Number, first: Number) -> Number:
        """Compute the advantage of a plain chain's turns: their value is its outcome, the root's the group's mean."""
        parent = first * mean + (1 - first) * outcome
        return turn_advantage(self.config.advantage, outcome - zero, parent - zero, mean - zero)


def _shrunk(
    tree: TurnTree,
    grouping: Grouping,
    values: Known,
    of_contexts: Known,
    shifts: Sequence[float] | None,
    root: float,
) -> list[float]:
    """Compute the baseline of ``diff_context`` minus that of ``diff_global``, by index."""
    known = [0] * len(values)
    for siblings in grouping.siblings:
        count = sum(values[index] is not None for index in siblings)
        for index in siblings:
            known[index] = count
    shrunk = [0.0]
    for node, local in zip(tree.nodes[1:], of_contexts[1:], strict=True):
        share, count = shrunk[node.parent], known[node.index]
        if values[node.index] is not None and local is not None:
            shift = shifts[node.index] if shifts else 0.0
            share = (share + (count - 1) * (local + shift - root)) / count
        shrunk.append(share)
    return shrunk
