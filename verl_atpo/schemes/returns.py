"""The scheme ``returns``: rewards of tools count in addition to the outcome (``credit.tool_rewards``)."""

from __future__ import annotations

import math

from verl_atpo.method.credit import collected, context_values, node_values
from verl_atpo.method.scheme import Known, register_scheme
from verl_atpo.schemes.paper import Paper
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import TurnTree


@register_scheme
class Returns(Paper):
    """Credit of a turn by its return to go, without the rewards before it.

    With ``credit.tool_rewards`` = w a trajectory's return is its outcome plus w times what tools gave on its way, and

        V(u) = w * r(u) + average of V over the turns that follow;  V(leaf) = w * r(leaf) + outcome

    r(u) being the reward of the calls after u. What was collected before a turn is left out of its baselines:

        local baseline of u    average value of the turns sampled in the context of u (``credit.contexts``)
        against the tree       the mean over trajectories of their return minus what they had collected before a turn of
                               this depth; a trajectory that ended earlier has 0

    Without rewards of tools, in contexts that are separate, this is ``paper``.
    """

    name = "returns"

    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        credit = self.config
        grouping = group_contexts(tree, credit.contexts)
        values = node_values(tree, credit.backup, credit.tool_rewards, grouping)
        baselines = context_values(tree, values, credit.backup, grouping)
        usual = _collected_by_depth(tree, credit.tool_rewards)
        # Turns of a failed attempt may be deeper than any trajectory; their values are not known.
        shifts = [usual[min(tree.depth(node.index), len(usual)) - 1] for node in tree.nodes]
        return values, self.compare(tree, grouping, values, baselines, zero, shifts)


def _collected_by_depth(tree: TurnTree, tool_rewards: float) -> list[float]:
    """Average over trajectories the rewards before their 1st, 2nd, ... turn; all rewards if they had ended."""
    before = collected(tree, tool_rewards)
    rows = [tree.path(node.index) for node in tree.nodes if node.reward is not None]
    means = []
    for at in range(max(map(len, rows))):
        ended = [before[row[-1]] + tool_rewards * tree.nodes[row[-1]].tool_reward for row in rows if len(row) <= at]
        means.append(math.fsum([*(before[row[at]] for row in rows if len(row) > at), *ended]) / len(rows))
    return means
