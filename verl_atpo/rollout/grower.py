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
from typing import Any

from verl_atpo.config import AtpoConfig, ConfigError
from verl_atpo.method.expansion import select_turns
from verl_atpo.method.tree import ROOT, TurnTree
from verl_atpo.replay.client import BranchSession, Generation
from verl_atpo.replay.turns import ContextRewrittenError, Turn, group_turns, turn_starts

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Branch:
    """A finished run of the agent loop.

    Attributes:
        session: its client, with every generation and what happened to the replay.
        output: what the agent loop returned, scored.
        turns: the trajectory's turns, shared ones included.
        starts: where each turn's first token stands in the response.
    """

    session: BranchSession
    output: Any
    turns: list[Turn]
    starts: list[int]

    @classmethod
    def of(cls, session: BranchSession, output: Any) -> Branch:
        """A finished run from its client and what its loop returned.

        Raises:
            ContextRewrittenError: the loop does not only append to its context.
        """
        turns = group_turns(session.generations)
        return cls(session, output, turns, turn_starts(turns, output))

    @property
    def reward(self) -> float:
        """Outcome reward."""
        return float(self.output.reward_score)


RunBranch = Callable[[int, Sequence[Generation]], Awaitable[Branch]]
"""Runs the loop for one leaf (its number, the generations to replay)."""


@dataclasses.dataclass
class Leaf:
    """One finished trajectory of a tree.

    Attributes:
        node: index of its last turn in the tree.
        own_turns: turns that this branch sampled itself; the ones before them are shared.
        branch: the run it came from.
    """

    node: int
    own_turns: int
    branch: Branch


@dataclasses.dataclass
class GrownTree:
    """A tree with what it was made of.

    Attributes:
        tree: structure, mean NLLs and rewards.
        turns: the turn of every node but the root, by node index.
        leaves: one per trajectory, in order of leaf number.
        picked: nodes that were re-sampled, round by round.
        regrown: branches that had to be grown again.
    """

    tree: TurnTree = dataclasses.field(default_factory=TurnTree)
    turns: dict[int, Turn] = dataclasses.field(default_factory=dict)
    leaves: list[Leaf] = dataclasses.field(default_factory=list)
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
            Exception: the last failure of a branch that could not be grown in ``growth.max_regrows`` new tries; the
                other branches of its round are cancelled and have ended by then.
        """
        expansion = self._config.expansion
        await self._grow_round([ROOT] * expansion.initial_chains, round=0)
        for round in range(1, expansion.rounds + 1):
            picks = select_turns(self._grown.tree, expansion.branches_per_round, expansion, self._rng)
            self._grown.picked += picks
            await self._grow_round(picks, round=round)
        return self._grown

    async def _grow_round(self, picks: Sequence[int], round: int) -> None:
        first = len(self._grown.leaves)
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
        prefix = [generation for node in context for generation in self._grown.turns[node].generations]
        growth = self._config.growth
        for regrow in range(growth.max_regrows + 1):
            try:
                branch = await self._run_branch(number, prefix)
                _ = [turn.mean_nll for turn in branch.turns]
            except (ConfigError, ContextRewrittenError):
                raise  # would fail the same way again
            except Exception as error:
                if regrow == growth.max_regrows:
                    raise
                logger.warning("Growing branch %d again (%d of %d): %r", number, regrow + 1, growth.max_regrows, error)
            else:
                if branch.session.replayed < len(branch.session.generations):
                    return branch
                # The loop ended before its new turn: the environment is not deterministic. Grow a chain of its own.
                if regrow == growth.max_regrows:
                    raise RuntimeError(f"The agent loop ended branch {number} without sampling a turn of its own.")
                prefix = []
            self._grown.regrown += 1
            await asyncio.sleep(growth.regrow_delay_s * 2**regrow)
        raise AssertionError("unreachable: the last try returns or raises")

    def _add(self, branch: Branch, context: Sequence[int], round: int) -> None:
        parent, shared, generations = ROOT, 0, 0
        for node in context:
            generations += len(self._grown.turns[node].generations)
            if generations > branch.session.replayed:
                break  # diverged in or before this turn: the branch is on its own from here
            parent, shared = node, shared + 1
        own = branch.turns[shared:]
        for turn in own[:-1]:
            parent = self._add_turn(parent, turn, round)
        leaf = self._add_turn(parent, own[-1], round, reward=branch.reward)
        self._grown.leaves.append(Leaf(node=leaf, own_turns=len(own), branch=branch))

    def _add_turn(self, parent: int, turn: Turn, round: int, reward: float | None = None) -> int:
        node = self._grown.tree.add_turn(
            parent, mean_nll=turn.mean_nll, is_leaf=reward is not None, reward=reward, round=round
        )
        self._grown.turns[node.index] = turn
        return node.index
