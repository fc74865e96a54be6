"""A small stand-in for the engine and for an agent loop, for unit tests of the grower's own logic."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from verl.experimental.agent_loop import AgentLoopOutput
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.config import ToolConfig
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.guard import ToolGuard
from verl_atpo.replay.runner import LoopRunner
from verl_atpo.tree.recording import Generation, contexts_of

PROMPT = [1, 2, 3]
STOP = 99
SCHEMA = OpenAIFunctionToolSchema.model_validate(
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "d",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    }
)


class FakeTokenizer:
    """Every character is a token, and ``<|end|>`` is special."""

    all_special_tokens = ("<|end|>",)

    def __call__(self, text: str, **kwargs: object) -> dict[str, list[tuple[int, int]]]:
        return {"offset_mapping": [(at, at + 1) for at in range(len(text))]}


def guard(**settings: object) -> ToolGuard:
    """A guard around tool calls that waits for nothing."""
    return ToolGuard(ToolConfig(**{"retry_delay_s": 0.0, **settings}), FakeTokenizer())


class FakeEngine:
    """Samples 1 to 3 tokens a turn; the last one is STOP with probability ``stop``; fails with probability ``fail``."""

    def __init__(self, seed: int = 0, stop: float = 0.4, fail: float = 0.0, latency_s: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.stop, self.fail, self.latency_s = stop, fail, latency_s
        self.request_ids: list[str] = []
        self.calls = 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: object) -> TokenOutput:
        self.calls += 1
        self.request_ids.append(request_id)
        await asyncio.sleep(self.rng.random() * self.latency_s)
        if self.rng.random() < self.fail:
            raise ConnectionError("engine gone")
        tokens = [self.rng.randrange(10, 90) for _ in range(self.rng.randint(1, 3))]
        if self.rng.random() < self.stop:
            tokens[-1] = STOP
        return TokenOutput(
            token_ids=tokens,
            log_probs=[-self.rng.random() for _ in tokens],
            extra_fields={"num_cached_tokens": len(prompt_ids) // 2},
        )


class FakeLoop:
    """An agent loop of at most ``max_turns`` turns, with one tool whose answer is a function of its argument.

    ``drift`` makes the environment answer differently every time, as a non-deterministic one does.
    """

    def __init__(self, max_turns: int = 5, drift: bool = False) -> None:
        self.max_turns, self.drift = max_turns, drift
        self.tool_calls = 0
        self._noise = random.Random(5)
        self.tools = [FunctionTool(name="look", fn=self._look, tool_schema=SCHEMA, is_async=True)]

    async def _look(self, at: int) -> int:
        self.tool_calls += 1
        return 100 + at % 7 + (self._noise.randrange(1000) if self.drift else 0)

    def weather(self, turn: int) -> list[int]:
        """What else is seen after a turn."""
        return []

    async def run(self, session: ReplayClient, tools: list[FunctionTool]) -> AgentLoopOutput:
        (tool,) = tools
        prompt, mask = list(PROMPT), []
        for turn in range(self.max_turns):
            output = await session.generate("own-id", prompt_ids=prompt, sampling_params={})
            prompt = prompt + output.token_ids
            mask += [1] * len(output.token_ids)
            if output.token_ids[-1] == STOP:
                break
            seen = [await tool.call({"at": output.token_ids[-1]}), *self.weather(turn)]
            prompt = prompt + seen
            mask += [0] * len(seen)
        response = prompt[len(PROMPT) :]
        return AgentLoopOutput(prompt_ids=list(PROMPT), response_ids=response, response_mask=mask, metrics={})


def contexts(generations: Sequence[Generation]) -> list[list[int]]:
    """The whole context that each generation was sampled in."""
    return contexts_of(generations)


def runner_of(engine: FakeEngine, loop: FakeLoop, reward=lambda output: float(sum(output.response_ids) % 3)):
    """Runs ``loop``, with its tool and a reward, on ``engine``."""

    async def scored(session: ReplayClient, tools: list[FunctionTool]) -> AgentLoopOutput:
        output = await loop.run(session, tools)
        output.reward_score = reward(output)
        return output

    return LoopRunner(engine, guard(), scored, loop.tools, request_id="tree")


def run_loop_with(engine: FakeEngine, loop: FakeLoop):
    """The ``run_loop`` of a grower."""
    return runner_of(engine, loop).trajectory
