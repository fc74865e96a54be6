"""Trees over environments with state, under random trouble: leaves, rewards, releases and ends hold."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.experimental.agent_loop import AgentLoopOutput

from tests.assets.fakes import PROMPT, STOP, FakeEngine, guard
from tests.assets.trees import outputs_of
from verl_atpo.config import AtpoConfig, ExpansionConfig, GrowthConfig, Schedule
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import LoopRunner
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tools import StatefulTool, ToolOutage, TransientToolError
from verl_atpo.tree.growth import GrownTree

TURNS = 4


class Walk(StatefulTool):
    """Adds up numbers; forgets to be there with probability ``fail``, refuses with probability ``refuse``."""

    name = "walk"

    def __init__(self, rng: random.Random, fail: float, refuse: float) -> None:
        super().__init__({})
        self.rng, self.fail, self.refuse = rng, fail, refuse
        self.opened = self.closed = 0
        self.wrong: list[str] = []

    async def open(self) -> list[int]:
        self.opened += 1
        return []

    async def call(self, state: list[int], step: int) -> str:
        """Walks.

        Args:
            step: How far.
        """
        await asyncio.sleep(self.rng.random() * 0.002)
        if self.rng.random() < self.fail:
            raise self.rng.choice([ToolOutage("gone"), TransientToolError("busy"), ConnectionError("cut")])
        if step % 10 < 10 * self.refuse:  # the model's own mistake: always the same for the same call
            raise ValueError("not that way")
        state.append(step)
        return f"at {sum(state)}"

    async def close(self, state: list[int]) -> None:
        assert state is not None
        self.closed += 1
        state.clear()


class ForkingWalk(Walk):
    """The same, forked."""

    async def snapshot(self, state: list[int]) -> list[int]:
        return list(state)

    async def restore(self, snapshot: list[int]) -> list[int]:
        self.opened += 1
        return list(snapshot)


async def walk(session: ReplayClient, bound: Any, tool: Walk) -> AgentLoopOutput:
    """A loop in the manner of verl's tool agent: errors are read, not raised. Checks what it sees by its own count."""
    prompt, mask, at = list(PROMPT), [], 0
    for _ in range(TURNS):
        output = await session.generate("own-id", prompt_ids=prompt)
        prompt = prompt + output.token_ids
        mask += [1] * len(output.token_ids)
        step = output.token_ids[-1]
        if step == STOP:
            break
        instance, _ = await bound.create()
        try:
            response, _, _ = await bound.execute(instance, {"step": step})
            seen = response.text
            if seen.startswith("at"):
                at += step
                if seen != f"at {at}":  # the state is not this trajectory's own, replayed or forked
                    tool.wrong.append(seen)  # an exception would only grow the branch again
        except ValueError as error:
            seen = str(error)
        finally:
            await bound.release(instance)
        prompt += seen.encode()
        mask += [0] * len(seen.encode())
    response = prompt[len(PROMPT) :]
    reward = float(sum(response) % 5)
    return AgentLoopOutput(
        prompt_ids=list(PROMPT), response_ids=response, response_mask=mask, reward_score=reward, metrics={}
    )


def grower(tool: Walk, engine: FakeEngine, config: AtpoConfig) -> TreeGrower:
    async def loop(session: ReplayClient, tools: list[Any]) -> AgentLoopOutput:
        return await walk(session, tools[0], tool)

    runner = LoopRunner(engine, guard(retries=1), loop, [tool], request_id="tree")
    return TreeGrower(config, runner.trajectory, random.Random(1))


def config(regrows: int) -> AtpoConfig:
    return AtpoConfig(expansion=ExpansionConfig(3, 2, 2, schedule=Schedule.ROUNDS), growth=GrowthConfig(regrows, 0.0))


def check(grown: GrownTree) -> None:
    assert len(grown.leaves) == 7
    for branch, output in zip(grown.trajectories, outputs_of(grown), strict=True):
        assert sum(output.token_rewards) == pytest.approx(branch.reward, abs=1e-6)
        assert not branch.diverged


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([Walk, ForkingWalk]),
    st.integers(0, 10_000),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.floats(0, 0.1),
    st.floats(0.05, 0.9),
)
def test_trees_are_whole_and_states_released_whatever_fails(kind, seed, fail, refuse, engine_fails, stop):
    tool = kind(random.Random(seed), fail, refuse)
    engine = FakeEngine(seed, stop=stop, fail=engine_fails, latency_s=0.002)
    grown = asyncio.run(asyncio.wait_for(grower(tool, engine, config(60)).grow(), 60))
    check(grown)
    assert tool.opened == tool.closed and not tool.wrong


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([Walk, ForkingWalk]), st.integers(0, 10_000), st.floats(0.0, 0.03))
def test_a_cancelled_tree_leaves_nothing_behind(kind, seed, after_s):
    tool = kind(random.Random(seed), 0.1, 0.1)

    async def cancelled() -> int:
        task = asyncio.create_task(grower(tool, FakeEngine(seed, 0.3, latency_s=0.01), config(20)).grow())
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(asyncio.all_tasks())

    assert asyncio.run(cancelled()) == 1  # the test itself
    assert tool.opened == tool.closed


def test_a_tree_whose_tool_stays_away_fails_with_its_reason():
    tool = Walk(random.Random(0), fail=1.0, refuse=0.0)
    with pytest.raises(ToolOutage, match=r"gone|busy|cut"):
        asyncio.run(grower(tool, FakeEngine(0, stop=0.0), config(2)).grow())
    assert tool.opened == tool.closed > 0
