"""Ways to sample the trajectories of a batch: chains, trees by each schedule, rounds in lock-step."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.rollout.agent import Latency, Pause, Workload, guard_without_text, no_pause, run, tool
from verl_atpo.config import AtpoConfig, Schedule
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import LoopRunner, Start
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.trajectory import Trajectory
from verl_atpo.tree.tree import Depth


@dataclasses.dataclass(frozen=True)
class Batch:
    """Work that a schedule has to sample.

    Attributes:
        prompts: how many.
        config: of the trees; chains take as many trajectories per prompt.
        workload, latency: what trajectories and tools look like.
        seed: of lengths and latencies.
        depths: of the chains of earlier trees.
        undecided: share of the outcome's variance that earlier trees had left after 0, 1, ... turns.
    """

    prompts: int
    config: AtpoConfig
    workload: Workload
    latency: Latency
    seed: int = 0
    depths: Sequence[Depth] = ()
    undecided: Sequence[float] = (1.0,)

    def scheduled(self, schedule: Schedule) -> Batch:
        """The same, with trees that grow by ``schedule``."""
        expansion = dataclasses.replace(self.config.expansion, schedule=schedule)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, expansion=expansion))


class Barrier:
    """Barrier of one step of generation, or of tools, for all running trajectories."""

    def __init__(self) -> None:
        self._running = self._arrived = 0
        self._gate = asyncio.Event()

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """One more to wait for, as long as this lasts."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._open_if_all_here()

    async def pause(self) -> None:
        """Wait for all others."""
        self._arrived += 1
        gate = self._gate
        self._open_if_all_here()
        await gate.wait()

    def _open_if_all_here(self) -> None:
        if self._arrived and self._arrived >= self._running:
            self._gate.set()
            self._gate, self._arrived = asyncio.Event(), 0


async def chains(client: Any, batch: Batch) -> int:
    """Independent trajectories, as verl's own sampler runs them; returns how many."""
    rng = random.Random(batch.seed)
    leaves = batch.config.expansion.leaves
    runs = [
        run(client, tool(batch.workload, batch.latency, rng), batch.workload.prompt(number), batch.workload, rng)
        for number in range(batch.prompts)
        for _ in range(leaves)
    ]
    return len(await asyncio.gather(*runs))


async def rounds(client: Any, batch: Batch) -> int:
    """Our asynchronous trees, round by round; returns the number of leaves."""
    return sum(len(tree.leaves) for tree in await grow(client, batch.scheduled(Schedule.ROUNDS)))


async def continuous(client: Any, batch: Batch) -> int:
    """Our asynchronous trees without rounds; returns the number of leaves."""
    return sum(len(tree.leaves) for tree in await grow(client, batch.scheduled(Schedule.CONTINUOUS)))


async def staggered(client: Any, batch: Batch) -> int:
    """Our asynchronous trees, expansions one after another while chains run; returns the number of leaves."""
    return sum(len(tree.leaves) for tree in await grow(client, batch.scheduled(Schedule.STAGGERED)))


async def lock_step(client: Any, batch: Batch) -> int:
    """Rounds in lock-step: all running trajectories generate, then all wait, then all call tools, then all wait."""
    return sum(len(tree.leaves) for tree in await grow(client, batch.scheduled(Schedule.ROUNDS), Barrier()))


SCHEDULES = {"chains": chains, "rounds": rounds, "continuous": continuous, "lock-step": lock_step}
"""Schedules by their name in tables."""
ALL_SCHEDULES = {**SCHEDULES, "staggered": staggered}
"""The same and the one that needs to know earlier trees."""


def speeds(leaves: int, sampled_tokens: int, seconds: float) -> dict[str, float]:
    """Compute the figures of a schedule from its time."""
    return {
        "seconds": seconds,
        "leaves_per_s": leaves / seconds,
        "tokens_per_s": sampled_tokens / seconds,
        "tokens_per_leaf": sampled_tokens / leaves,
    }


async def grow(client: Any, batch: Batch, barrier: Barrier | None = None) -> Sequence[GrownTree]:
    """Grow one tree per prompt."""
    guard = guard_without_text(batch.config.tools)
    rng = random.Random(batch.seed)

    async def tree(number: int) -> GrownTree:
        prompt = batch.workload.prompt(number)

        async def loop(session: ReplayClient, tools: list[Any]) -> Any:
            return await run(session, tools[0], prompt, batch.workload, rng, _pause(barrier, session))

        tools = [tool(batch.workload, batch.latency, rng)]
        runner = LoopRunner(client, guard, loop, tools, request_id=f"tree {number}")

        async def run_loop(start: Start) -> Trajectory:
            with barrier.joined() if barrier else contextlib.nullcontext():
                return await runner.trajectory(start)

        earlier = batch.undecided, batch.depths
        return await TreeGrower(batch.config, run_loop, random.Random(number), None, *earlier).grow()

    return await asyncio.gather(*map(tree, range(batch.prompts)))


def _pause(barrier: Barrier | None, session: ReplayClient) -> Pause:
    if barrier is None:
        return no_pause

    async def pause() -> None:
        if not session.replaying:  # shared turns take no step
            await barrier.pause()

    return pause
