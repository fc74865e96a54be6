"""Rewards inside the trajectory: what tools give for their calls, beside the outcome. Pure Python.

With ``credit.tool_rewards`` = w a trajectory's return is its outcome plus w times what tools gave on its way. A turn is
credited with what comes from it on, its *return to go*: V(u) = w * r(u) + mean of V over the turns that follow, r(u)
being the reward of the calls behind u; at a leaf the outcome. What came before a turn is not its merit, so baselines
leave it out:

- against the tree (``value``, ``diff_global``): the mean over trajectories of their return less what they had collected
  before a turn of this depth (one that ended earlier: less all that its tools gave);
- against the turn before (``diff_parent``): what the context of u was worth, which is V(parent) less what the parent's
  own calls gave, or with ``credit.contexts`` the average over all turns that were sampled in it;
- against one baseline (``diff_context``): b(u) = (b(turn before u) + (n - 1) * value of u's context) / n, where n turns
  were sampled in the context and b of a first turn is the root's value. Where no other turn was sampled in it (n = 1)
  that is the tree's baseline, with many it is the context's value; no difference is counted twice.

Without rewards of tools, in contexts that are separate, both are the outcome's own: nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from verl_atpo.config import AdvantageMode, CreditConfig
from verl_atpo.tree.tree import ROOT, TurnTree


def leaf_returns(tree: TurnTree, tool_rewards: float) -> list[float | None]:
    """Return of the trajectory that each leaf ends, by index; ``None`` for other nodes, and where none is known."""
    if tool_rewards == 0:
        return [node.reward for node in tree.nodes]
    return [
        None if node.reward is None else node.reward + before + tool_rewards * node.tool_reward
        for node, before in zip(tree.nodes, _collected(tree, tool_rewards), strict=True)
    ]


def carried_returns(
    tree: TurnTree,
    values: Sequence[float | None],
    contexts: Sequence[float | None],
    siblings: Sequence[Sequence[int]],
    credit: CreditConfig,
) -> list[float | None]:
    """What rows carry of every node, by index, so that the estimator's ``credit.advantage`` of it is as said above.

    Args:
        tree: with at least one leaf whose reward is known.
        values: returns to go of its nodes, by index.
        contexts: values of the contexts they were sampled in, by index.
        siblings: nodes by context.
        credit: names the kind of advantage and the rewards' weight.
    """
    before = _collected(tree, credit.tool_rewards)
    usual = _collected_by_depth(tree, before, credit.tool_rewards)
    root = values[ROOT]
    assert root is not None, "a tree without a known reward has no values to carry"
    sampled = [1] * len(tree.nodes)
    for group in siblings:
        known = sum(values[index] is not None for index in group)
        for index in group:
            sampled[index] = known
    carried = [root]
    local_share = [0.0]  # of ``diff_context``: baseline of a turn less the tree's at its depth
    depth = [0]
    for node, value, context in zip(tree.nodes[1:], values[1:], contexts[1:], strict=True):
        depth.append(depth[node.parent] + 1)
        local_share.append(local_share[node.parent])
        if value is None or context is None:  # the one is known where the other is
            carried.append(math.nan)
            continue
        against_tree = value + usual[depth[-1] - 1]
        if credit.advantage is AdvantageMode.DIFF_PARENT:
            carried.append(carried[node.parent] + value - context)
        elif credit.advantage is AdvantageMode.DIFF_LOCALGLOBAL:
            # The estimator makes 2 x - (what the parent carries) - root of it.
            carried.append((value - context + against_tree + carried[node.parent]) / 2)
        elif credit.advantage is AdvantageMode.DIFF_CONTEXT:
            n = sampled[node.index]
            above = context + usual[depth[-1] - 1] - root
            local_share[-1] = (local_share[node.parent] + (n - 1) * above) / n
            carried.append(against_tree - local_share[-1])
        else:
            carried.append(against_tree)
    return [None if value is None else each for value, each in zip(values, carried, strict=True)]


def _collected(tree: TurnTree, tool_rewards: float) -> list[float]:
    """What tools had given on the way to each node, by index, its own calls' left out."""
    before = [0.0]
    for node in tree.nodes[1:]:
        parent = tree.nodes[node.parent]
        before.append(before[node.parent] + tool_rewards * parent.tool_reward)
    return before


def _collected_by_depth(tree: TurnTree, before: Sequence[float], tool_rewards: float) -> list[float]:
    """Mean over trajectories of what they had collected before their 1st, 2nd, ... turn; in all if they had ended."""
    rows = [tree.path(node.index) for node in tree.nodes if node.reward is not None]
    means = []
    for at in range(max(map(len, rows))):
        ended = [before[row[-1]] + tool_rewards * tree.nodes[row[-1]].tool_reward for row in rows if len(row) <= at]
        means.append(math.fsum([*(before[row[at]] for row in rows if len(row) > at), *ended]) / len(rows))
    return means
