"""Growth of one tree: M chains, then L * K expansions that each sample one of its turns again.

Asynchronous and engine-agnostic: a trajectory is a coroutine, so a slow tool delays its own trajectory only. With
``rounds`` K expansions start whenever all others have ended, and their turns join the tree then, in order of number.
With ``continuous`` a turn joins as soon as its loop continues, and expansions start once enough chains have ended,
at the best turns known so far. With ``staggered`` they start one after another as the chains' turns join.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from verl_atpo.config import AtpoConfig, GrowthConfig, Schedule
from verl_atpo.failure import ReplayEndedError, is_outage
from verl_atpo.method.expansion import explain_selection, select_turns
from verl_atpo.method.lengths import expected_turns
from verl_atpo.method.scheme import Questions
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import Start
from verl_atpo.retry import Retry
from verl_atpo.rollout.budget import SpareExpansions, TreeBudget
from verl_atpo.rollout.stagger import expansions_due, progress
from verl_atpo.tree.growth import GrownTree, Rollout, Selection
from verl_atpo.tree.trajectory import Trajectory
from verl_atpo.tree.tree import ROOT, Depth, TurnTree

logger = logging.getLogger(__name__)

RunLoop = Callable[[Start], Awaitable[Trajectory]]
"""Runs the loop for one leaf."""


def regrowth(growth: GrowthConfig) -> Retry:
    """Return the retry policy for a trajectory that an outage ended."""
    return Retry(growth.max_regrows, growth.regrow_delay_s, is_outage)


class TreeGrower:
    """Grows one tree with the leaves of its budget, M + L * K if that is fixed, or raises.

    Args:
        config: settings.
        run_loop: runs the agent loop once.
        rng: random generator of selection strategies.
        spares: expansions that the trees of a batch share, for ``budget=adaptive``.
        undecided: share of the outcome's variance that earlier trees had left after 0, 1, ... turns.
        depths: profile of the chains of earlier trees, for ``schedule=staggered``; empty for the first tree.

    Attributes:
        grown: the tree so far, also when it failed.
    """

    def __init__(
        self,
        config: AtpoConfig,
        run_loop: RunLoop,
        rng: random.Random,
        spares: SpareExpansions | None = None,
        undecided: Sequence[float] = (1.0,),
        depths: Sequence[Depth] = (),
    ) -> None:
        self._config = config
        self._budget = TreeBudget(config.expansion, spares or SpareExpansions())
        self._expansion = config.expansion
        self._continuous = config.expansion.schedule is not Schedule.ROUNDS
        self._staggered = config.expansion.schedule is Schedule.STAGGERED
        self._turn_joined = asyncio.Event()
        self._run_loop = run_loop
        self._rng = rng
        self._began = time.monotonic()
        self.grown = GrownTree(TurnTree(undecided, depths if self._staggered else ()))

    async def grow(self) -> GrownTree:
        """Grow the tree.

        Raises:
            Exception: a bug, or the last outage of a trajectory that could not be grown in ``growth.max_regrows`` new
                attempts; all other trajectories are cancelled and have ended.
        """
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                running |= {asyncio.create_task(self._grow_rollout(rollout)) for rollout in self._next(len(running))}
                if not running:
                    self._budget.close(len(self.grown.rollouts))
                    return self.grown
                done = await self._wait(running)
                running -= done
                if errors := [error for task in done if (error := task.exception()) is not None]:
                    raise errors[0]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _wait(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Wait until a trajectory has ended, or with ``staggered`` a turn has joined; returns the ended ones."""
        if not self._staggered:
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0]
        self._turn_joined.clear()
        turn = asyncio.create_task(self._turn_joined.wait())
        try:
            await asyncio.wait({*running, turn}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            turn.cancel()
        return {task for task in running if task.done()}

    def _next(self, running: int) -> list[Rollout]:
        """Return the trajectories that start now, while ``running`` others have not ended."""
        rollouts, expansion = self.grown.rollouts, self._expansion
        free = self._budget.startable(len(rollouts), running, self.grown.outcomes)
        if chains := expansion.initial_chains - len(rollouts[: expansion.initial_chains]):
            return self._start([None] * min(free, chains))
        if self._continuous:
            if not (free := self._due(free)):
                return []
            # While chains run, many a turn that is known is a first one: to sample it again would be a fresh chain.
            least_depth = 2 if self._chains_run else 1
        else:
            least_depth = 0
            if running:
                return []
            for rollout in rollouts:
                if rollout.joined is None:
                    self._join(rollout, rollout.trajectory)
            free = min(free, expansion.branches_per_round)
        self._count_pending()
        wait = self._staggered and self._chains_run
        selected = select_turns(self.grown.tree, free, expansion, self._rng, least_depth=least_depth, wait=wait)
        return self._start(explain_selection(self.grown.tree, selected, expansion, least_depth=least_depth))

    @property
    def _chains(self) -> list[Rollout]:
        return self.grown.rollouts[: self._expansion.initial_chains]

    @property
    def _chains_run(self) -> bool:
        return any(chain.trajectory is None for chain in self._chains)

    def _due(self, free: int) -> int:
        """Count the expansions that start now, of ``free`` that may."""
        expansion, chains = self._expansion, self._chains
        turns = expected_turns(self.grown.tree.depths)
        if self._staggered and turns is not None:
            due = expansions_due(progress(chains, turns), self._budget.most - len(chains), expansion)
            return min(free, max(0, due - (len(self.grown.rollouts) - len(chains))))
        ended = sum(chain.trajectory is not None for chain in chains)
        return free if ended >= math.ceil(expansion.start_after * expansion.initial_chains) else 0

    def _count_pending(self) -> None:
        waiting = [each for each in self.grown.rollouts if each.selection is not None and each.joined is None]
        self.grown.tree.pending = Counter(each.context[-1] if each.context else ROOT for each in waiting)

    def _start(self, selections: Sequence[Selection | None]) -> list[Rollout]:
        rollouts = self.grown.rollouts
        round, now = rollouts[-1].round + 1 if rollouts else 1, time.monotonic() - self._began
        started = [
            Rollout(number, 0, None, [], now)
            if selection is None
            else Rollout(number, round, selection, self._context_of(selection.node), now)
            for number, selection in enumerate(selections, start=len(rollouts))
        ]
        rollouts += started
        return started

    def _context_of(self, node: int) -> list[int]:
        """List the turns before a turn that is sampled again: those that had ended when it began.

        Calls of one trajectory at the same time (sub-agents) stand one after the other in the tree, in the order in
        which they ended; what was running when the turn began is sampled again as well.
        """
        tree = self.grown.tree
        before = tree.path(node)[:-1]
        if not before:
            return before
        began = tree.turn(node).started_s
        return [other for other in before if tree.turn(other).ended_s <= began]

    async def _grow_rollout(self, rollout: Rollout) -> None:
        def failed(error: Exception, attempts: int) -> None:
            if isinstance(error, ReplayEndedError):  # the environment is not deterministic: grow a chain of its own
                rollout.context = []
            rollout.failures.append(error)
            rollout.joined = None
            most = self._config.growth.max_regrows
            logger.warning("Growing trajectory %d again (%d of %d): %r", rollout.number, attempts, most, error)

        rollout.trajectory = await regrowth(self._config.growth).call(lambda: self._grown_once(rollout), failed)
        rollout.ended_s = time.monotonic() - self._began
        if self._continuous:
            self._join(rollout, rollout.trajectory)

    async def _grown_once(self, rollout: Rollout) -> Trajectory:
        """Run the loop for a trajectory once, with a turn of its own.

        Raises:
            ReplayEndedError: it has none.
            EmptyTurnError: a turn has no tokens.
        """
        trajectory = await self._run_loop(self._start_of(rollout))
        _ = [turn.mean_nll for turn in trajectory.turns]
        if trajectory.replayed == len(trajectory.generations):
            raise ReplayEndedError(f"The loop ended trajectory {rollout.number} without its own turn.")
        return trajectory

    def _start_of(self, rollout: Rollout) -> Start:
        prefix = self.grown.tree.generations(rollout.context)
        more_to_come = len(self.grown.rollouts) < self._budget.ever
        on_turn = functools.partial(self._join, rollout) if self._continuous else None
        return Start(rollout.number, prefix, snapshots=more_to_come, on_turn=on_turn, on_sampled=rollout.count)

    def _join(self, rollout: Rollout, run: Trajectory | ReplayClient | None) -> None:
        """Add the turns of a running or finished run that are not in the tree yet."""
        assert run is not None
        reward = run.reward if isinstance(run, Trajectory) else None
        self.grown.join(rollout, run.generations, reward, bool(self._config.credit.tool_rewards))
        self._turn_joined.set()


async def grow_and_ask(grower: TreeGrower, questions: Questions | None) -> GrownTree:
    """Grow a tree and, where the credit scheme asks the engine, wait for its answers.

    Raises what :meth:`TreeGrower.grow` and :meth:`Questions.settle` do, after all requests have ended.
    """
    if questions is None:
        return await grower.grow()
    try:
        grown = await grower.grow()
        grown.answers = await questions.settle(grown.tree)
        return grown
    finally:
        await questions.cancel()
