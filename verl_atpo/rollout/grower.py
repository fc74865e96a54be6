"""Growing one tree: M chains, then L rounds of K re-sampled turns, all branches of a round at once.

Asynchronous and engine-agnostic: a branch is a coroutine, so a slow tool delays its own branch only. The one barrier is
the method's own: the K turns to re-sample are known when the branches of the round before have ended.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from verl_atpo.config import AtpoConfig
from verl_atpo.failure import ReplayEndedError, is_outage
from verl_atpo.method.expansion import select_turns
from verl_atpo.method.tree import ROOT, TurnTree
from verl_atpo.replay.recording import Generation
from verl_atpo.replay.runner import Branch

logger = logging.getLogger(__name__)


RunBranch = Callable[[int, Sequence[Generation]], Awaitable[Branch]]
"""Runs the loop for one leaf (its number, the generations to replay)."""


@dataclasses.dataclass
class GrownTree:
    """A tree and the branches it was made of.

    Attributes:
        tree: structure, turns, mean NLLs and rewards.
        branches: finished runs by leaf number; each sampled the nodes that carry its number.
        leaves: the node that each of them ended with.
        picked: nodes that were re-sampled, round by round.
        regrown: branches that had to be grown again.
    """

    tree: TurnTree = dataclasses.field(default_factory=TurnTree)
    branches: list[Branch] = dataclasses.field(default_factory=list)
    leaves: list[int] = dataclasses.field(default_factory=list)
    picked: list[int] = dataclasses.field(default_factory=list)
    regrown: int = 0


class TreeGrower:
    """Grows one tree with exactly M + L * K leaves, or raises.

    Args:
        config: settings.
        run_branch: runs the agent loop once.
        rng: for selection strategies that draw.
    """

    def __init__(self, config: AtpoConfig, run_branch: RunBranch, rng: random.Random) -> None:
        self._config = config
        self._run_branch = run_branch
        self._rng = rng
        self._grown = GrownTree()

    async def grow(self) -> GrownTree:
        """Grow the tree.

        Raises:
            Exception: a bug, or the last outage of a branch that could not be grown in ``growth.max_regrows`` new
                tries; the other branches of its round are cancelled and have ended by then.
        """
        expansion = self._config.expansion
        await self._grow_round([ROOT] * expansion.initial_chains, round=0)
        for round in range(1, expansion.rounds + 1):
            picks = select_turns(self._grown.tree, expansion.branches_per_round, expansion, self._rng)
            self._grown.picked += picks
            await self._grow_round(picks, round=round)
        return self._grown

    async def _grow_round(self, picks: Sequence[int], round: int) -> None:
        first = len(self._grown.branches)
        tasks = [
            asyncio.create_task(self._grow_branch(first + offset, self._context(node)))
            for offset, node in enumerate(picks)
        ]
        try:
            branches = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for node, branch in zip(picks, branches, strict=True):
            self._add(branch, self._context(node), round)

    def _context(self, node: int) -> list[int]:
        """Nodes whose turns stand before ``node``'s turn; a branch of the root has none."""
        return self._grown.tree.path(node)[:-1] if node != ROOT else []

    async def _grow_branch(self, number: int, context: Sequence[int]) -> Branch:
        prefix = self._grown.tree.generations(context)
        growth = self._config.growth
        for regrow in range(growth.max_regrows + 1):
            try:
                branch = await self._run_branch(number, prefix)
                _ = [turn.mean_nll for turn in branch.turns]
            except Exception as error:
                if regrow == growth.max_regrows or not is_outage(error):
                    raise
                logger.warning("Growing branch %d again (%d of %d): %r", number, regrow + 1, growth.max_regrows, error)
            else:
                if branch.replayed < len(branch.generations):
                    return branch
                # The loop ended before its new turn: the environment is not deterministic. Grow a chain of its own.
                if regrow == growth.max_regrows:
                    raise ReplayEndedError(f"The agent loop ended branch {number} without sampling a turn of its own.")
                prefix = []
            self._grown.regrown += 1
            await asyncio.sleep(growth.regrow_delay_s * 2**regrow)
        raise AssertionError("unreachable: the last try returns or raises")

    def _add(self, branch: Branch, context: Sequence[int], round: int) -> None:
        tree = self._grown.tree
        parent, shared, generations = ROOT, 0, 0
        for node in context:
            generations += len(tree.turn(node).generations)
            if generations > branch.replayed:
                break  # diverged in or before this turn: the branch is on its own from here
            parent, shared = node, shared + 1
        for turn in branch.turns[shared:]:
            ends = turn is branch.turns[-1]
            parent = tree.add_turn(
                parent,
                mean_nll=turn.mean_nll,
                is_leaf=ends,
                reward=branch.reward if ends else None,
                round=round,
                branch=len(self._grown.branches),
                turn=turn,
            ).index
        self._grown.branches.append(branch)
        self._grown.leaves.append(parent)
