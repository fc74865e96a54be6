"""A simulated agent: turns of random length, a tool of random latency, both on top of a real or simulated engine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop import AgentLoopOutput
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_atpo.config import ToolConfig
from verl_atpo.replay.guard import ToolGuard

VOCABULARY = range(100, 4000)
SCHEMA = {"type": "function", "function": {"name": "tool", "description": "d"}}
SCHEMA["function"]["parameters"] = {"type": "object", "properties": {}, "required": []}  # type: ignore[index]

Pause = Callable[[], Awaitable[None]]


async def no_pause() -> None:
    """Nobody to wait for."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Distribution of trajectories.

    Attributes:
        prompt_tokens: length of every prompt.
        median_turn_tokens, turn_sigma: log-normal length of a turn.
        max_turns: a trajectory ends here at the latest.
        end_share: probability that a turn ends its trajectory.
        observation_tokens: length of every tool answer.
    """

    prompt_tokens: int = 64
    median_turn_tokens: int = 24
    turn_sigma: float = 0.6
    max_turns: int = 6
    end_share: float = 0.25
    observation_tokens: int = 48

    def prompt(self, number: int) -> list[int]:
        """Tokens of prompt ``number``."""
        return random.Random(f"prompt {number}").choices(VOCABULARY, k=self.prompt_tokens)

    def turn_tokens(self, rng: random.Random) -> int:
        """Length of a new turn, 4 to 4 times the median."""
        drawn = self.median_turn_tokens * math.exp(rng.gauss(0, self.turn_sigma))
        return max(4, min(4 * self.median_turn_tokens, round(drawn)))

    def ends(self, turn: int, last_token: int) -> bool:
        """Return whether a turn ends its trajectory: a function of its tokens, so that a replay takes the same way."""
        return turn == self.max_turns or random.Random(last_token * 31 + turn).random() < self.end_share


@dataclasses.dataclass(frozen=True)
class Latency:
    """Seconds of a tool call: log-normal with a share of calls 30 times as long, constant (sigma 0), or none."""

    median_s: float = 0.0
    sigma: float = 0.0
    tail_share: float = 0.0
    tail_factor: float = 30.0

    def draw(self, rng: random.Random) -> float:
        """Seconds of one call."""
        seconds = self.median_s * math.exp(rng.gauss(0, self.sigma))
        return seconds * (self.tail_factor if rng.random() < self.tail_share else 1.0)


def heavy_tailed(median_s: float) -> Latency:
    """A tool that varies, and takes 30 times its median once in a hundred calls."""
    return Latency(median_s=median_s, sigma=0.5, tail_share=0.01)


class NoTokenizer:
    """Tokenizer of a guard whose observations are no text."""

    all_special_tokens = ()


def guard_without_text(config: ToolConfig) -> ToolGuard:
    """A guard for tools whose observations are token ids."""
    return ToolGuard(dataclasses.replace(config, max_observation_tokens=None), NoTokenizer())  # type: ignore[arg-type]


def tool(workload: Workload, latency: Latency, rng: random.Random) -> FunctionTool:
    """Answers with tokens made from its argument, after a while."""

    async def answer(at: int) -> list[int]:
        await asyncio.sleep(latency.draw(rng))
        return random.Random(at).choices(VOCABULARY, k=workload.observation_tokens)

    return FunctionTool("tool", answer, OpenAIFunctionToolSchema.model_validate(SCHEMA), is_async=True)


async def run(
    client: Any, tool: FunctionTool, prompt: list[int], workload: Workload, rng: random.Random, pause: Pause = no_pause
) -> AgentLoopOutput:
    """One trajectory.

    Args:
        client: with verl's ``generate``.
        tool: from :func:`tool`, wrapped or not.
        prompt: its tokens.
        workload: what it looks like.
        rng: for lengths of turns.
        pause: awaited after every generation and every tool call: the barrier of a lock-step schedule.
    """
    request_id, context, mask = uuid4().hex, list(prompt), []
    for turn in range(1, workload.max_turns + 1):
        parameters = {"temperature": 1.0, "max_tokens": workload.turn_tokens(rng)}
        output = await client.generate(request_id, prompt_ids=context, sampling_params=parameters)
        await pause()
        context = context + output.token_ids
        mask += [1] * len(output.token_ids)
        if workload.ends(turn, output.token_ids[-1]):
            break
        seen = await tool.call({"at": output.token_ids[-1]})
        seen = json.loads(seen) if isinstance(seen, str) else seen  # a guard makes text of what a tool returns
        await pause()
        context = context + seen
        mask += [0] * len(seen)
    response = context[len(prompt) :]
    reward = random.Random(sum(response)).random()
    return AgentLoopOutput(
        prompt_ids=list(prompt), response_ids=response, response_mask=mask, reward_score=reward, metrics={}
    )
