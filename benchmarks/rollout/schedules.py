"""Three ways to sample the trajectories of a batch of prompts: chains, trees, trees in lock-step."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.rollout.agent import Latency, Pause, Workload, guard_without_text, no_pause, run, tool
from verl_atpo.config import AtpoConfig
from verl_atpo.replay.client import BranchSession
from verl_atpo.replay.recording import Generation
from verl_atpo.replay.runner import Branch, LoopRunner
from verl_atpo.rollout.grower import GrownTree, TreeGrower


@dataclasses.dataclass(frozen=True)
class Batch:
    """What is to be sampled.

    Attributes:
        prompts: how many.
        config: of the trees; chains take as many trajectories per prompt.
        workload, latency: what trajectories and tools look like.
        seed: of lengths and latencies.
    """

    prompts: int
    config: AtpoConfig
    workload: Workload
    latency: Latency
    seed: int = 0


class Barrier:
    """Lets everybody on when all have arrived: one step of generation, or of tools, for all running branches."""

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


async def trees(client: Any, batch: Batch) -> int:
    """Our asynchronous trees; returns the number of leaves."""
    return sum(len(tree.leaves) for tree in await grow(client, batch))


async def lock_step_trees(client: Any, batch: Batch) -> int:
    """The same trees in steps: all running branches generate, then all wait, then all call tools, then all wait."""
    return sum(len(tree.leaves) for tree in await grow(client, batch, Barrier()))


SCHEDULES = {"chains": chains, "trees": trees, "lock-step trees": lock_step_trees}
"""By the name that tables give them."""


def speeds(leaves: int, sampled_tokens: int, seconds: float) -> dict[str, float]:
    """What is told of a schedule that took so long."""
    return {
        "seconds": seconds,
        "leaves_per_s": leaves / seconds,
        "tokens_per_s": sampled_tokens / seconds,
        "tokens_per_leaf": sampled_tokens / leaves,
    }


async def grow(client: Any, batch: Batch, barrier: Barrier | None = None) -> Sequence[GrownTree]:
    """One tree per prompt."""
    guard = guard_without_text(batch.config.tools)
    rng = random.Random(batch.seed)

    async def tree(number: int) -> GrownTree:
        prompt = batch.workload.prompt(number)

        async def loop(session: BranchSession, tools: list[Any]) -> Any:
            return await run(session, tools[0], prompt, batch.workload, rng, _pause(barrier, session))

        tools = [tool(batch.workload, batch.latency, rng)]
        runner = LoopRunner(client, guard, loop, tools, request_id=f"tree {number}")

        async def run_branch(leaf: int, prefix: Sequence[Generation]) -> Branch:
            with barrier.joined() if barrier else contextlib.nullcontext():
                return await runner.branch(prefix)

        return await TreeGrower(batch.config, run_branch, random.Random(number)).grow()

    return await asyncio.gather(*map(tree, range(batch.prompts)))


def _pause(barrier: Barrier | None, session: BranchSession) -> Pause:
    if barrier is None:
        return no_pause

    async def pause() -> None:
        if not session.replaying:  # shared turns take no step
            await barrier.pause()

    return pause
