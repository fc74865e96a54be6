"""The scheme ``merged``: equal contexts are pooled across trajectories (``credit.contexts``)."""

from __future__ import annotations

from verl_atpo.method.credit import context_values, node_values
from verl_atpo.method.scheme import Known, register_scheme
from verl_atpo.schemes.paper import Paper
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import TurnTree


@register_scheme
class Merged(Paper):
    """The credit of ``paper``, but a turn is compared with all turns that were sampled in an equal context.

    With ``contexts=merged`` copies of a turn (equal ids in equal contexts) share their children, so that

        V(copies) = average of the values of all their children
        local baseline of u = average of the values of all turns sampled in the context of u

    With ``contexts=states`` only baselines are pooled, over turns after equal observations.
    """

    name = "merged"

    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        grouping = group_contexts(tree, self.config.contexts)
        values = node_values(tree, self.config.backup, contexts=grouping)
        contexts = context_values(tree, values, self.config.backup, grouping)
        return values, self.compare(tree, grouping, values, contexts, zero)
