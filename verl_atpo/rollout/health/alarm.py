"""Alarm for training steps without a gradient: after three such steps in a row it names the cause."""

from __future__ import annotations

import logging

from verl_atpo.report.metrics import WorkerStats

logger = logging.getLogger(__name__)

ALARM_AFTER = 3
"""Useless steps in a row before the alarm, and between two alarms."""


class UselessSteps:
    """Counts the training steps in a row that taught nothing.

    Args:
        grows_trees: whether trajectories are expanded, which needs two turns.
    """

    def __init__(self, grows_trees: bool = True) -> None:
        self._grows_trees = grows_trees
        self._streak = 0

    def look(self, stats: WorkerStats) -> int:
        """Look at a step; every third useless one in a row is an error in the log.

        Returns:
            How many steps in a row have taught nothing, this one included.
        """
        if not stats.trees:
            return self._streak
        cause = cause_of(stats, self._grows_trees)
        self._streak = self._streak + 1 if cause else 0
        if cause and self._streak % ALARM_AFTER == 0:
            first = f" The first error of a tool:\n{stats.tools.first_error}" if stats.tools.first_error else ""
            logger.error("The last %d steps taught nothing: %s.%s", self._streak, cause, first)
        return self._streak


def cause_of(stats: WorkerStats, grows_trees: bool = True) -> str | None:
    """Explain why a step taught nothing; None where it may have taught something."""
    tools, trees = stats.tools, stats.trees
    if tools.calls > 0 and tools.errors >= tools.calls:
        return f"every one of {tools.calls} tool calls raised. Fix the tool, or its schema, which the model reads"
    if grows_trees and all(depth == 1 for tree in trees for depth in tree.depths):
        return (
            "every trajectory had one turn, so that no tree could branch. Does the prompt say how tools are called, "
            "and does rollout.multi_turn.format read it"
        )
    if not any(tree.teaches for tree in trees):
        return (
            f"the rewards inside each of {len(trees)} trees were equal, so that all advantages are 0. Is the reward "
            "function right, and the task neither too hard nor too easy"
        )
    return None
