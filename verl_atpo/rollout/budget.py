"""Budget of a tree's leaves: M + L * K, or with ``budget=adaptive`` a number that depends on its outcomes.

A tree all of whose trajectories have succeeded grows no expansion: equal outcomes give every turn the advantage 0, and
most likely its expansions would succeed too. What it did not use is spare, and another tree with a failure may grow
it. The trees of a worker's batch share one :class:`SpareExpansions`, so together they never have more leaves than fixed
budgets give. No tree waits for another: it takes what is there when its own budget is spent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from verl_atpo.config import Budget, ExpansionConfig, Schedule


@dataclasses.dataclass
class SpareExpansions:
    """Expansions that trees did not use and that others may grow.

    Attributes:
        left: number of expansions not taken yet.
    """

    left: int = 0

    def take(self, most: int) -> int:
        """Take up to ``most``; returns how many."""
        taken = min(self.left, most)
        self.left -= taken
        return taken


class TreeBudget:
    """The leaves of one tree.

    Args:
        expansion: M, K, L and the kind of budget.
        spares: unused expansions of the trees of its batch.

    Attributes:
        most: leaves that it may currently have.
    """

    def __init__(self, expansion: ExpansionConfig, spares: SpareExpansions) -> None:
        self._expansion, self._spares = expansion, spares
        self.most = expansion.leaves

    @property
    def ever(self) -> int:
        """Most leaves that it may ever have."""
        return self._expansion.leaves + self._expansion.spares

    def startable(self, started: int, running: int, outcomes: Sequence[float]) -> int:
        """Count the trajectories that may start now.

        Args:
            started: trajectories so far, the initial chains among them.
            running: number of trajectories that have not ended.
            outcomes: outcomes of the trajectories that have ended.
        """
        expansion = self._expansion
        if expansion.budget is Budget.ADAPTIVE and started >= expansion.initial_chains:
            if all(outcome >= expansion.success for outcome in outcomes):
                return 0
            if started == self.most and not running:
                self.most += self._spares.take(min(expansion.branches_per_round, self.ever - self.most))
        if expansion.schedule is not Schedule.ROUNDS and expansion.in_flight is not None:
            return min(self.most - started, max(0, expansion.in_flight - running))
        return self.most - started

    def close(self, started: int) -> None:
        """Make the rest of a finished tree's budget spare."""
        self._spares.left += self.most - started
