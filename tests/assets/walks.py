"""A task with state: a walk over numbers, its tool and its loop."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from verl.experimental.agent_loop import AgentLoopOutput

from tests.assets.fakes import PROMPT, STOP, FakeEngine, guard
from verl_atpo.config import AtpoConfig
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import LoopRunner
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tools import StatefulTool, ToolOutage, TransientToolError

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
