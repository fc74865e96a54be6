"""A fleet of simulated engines: continuous batching and prefix caching, in seconds of the event loop's clock."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from verl.workers.rollout.replica import TokenOutput

from benchmarks.rollout.agent import VOCABULARY

BLOCK = 16
"""Tokens of a block of the prefix cache, as in vLLM."""


@dataclasses.dataclass(frozen=True)
class EngineSpeed:
    """Duration of one step of an engine, in which every running request gets a token.

    The defaults are assumed, not measured: the order of a model of 4 billion parameters on one recent GPU.

    Attributes:
        step_s: seconds of any step.
        sequence_s: seconds more per running request.
        prefill_s: seconds more per prompt token that is not in the prefix cache.
        max_num_seqs: requests that run at a time; the others wait.
    """

    step_s: float = 0.01
    sequence_s: float = 5e-5
    prefill_s: float = 4e-5
    max_num_seqs: int = 256


@dataclasses.dataclass
class Request:
    """A turn on its way: tokens to sample, prompt tokens to prefill, and where to say that it is done."""

    tokens: int
    prefill: int
    done: asyncio.Future[None]


class SimulatedEngine:
    """One engine.

    Attributes:
        load: requests in it.
        busy_s: seconds in which it worked.
    """

    def __init__(self, speed: EngineSpeed) -> None:
        self._speed = speed
        self._waiting: deque[Request] = deque()
        self._running = 0
        self._step = 0
        self._done_after: defaultdict[int, list[Request]] = defaultdict(list)  # by the number of their last step
        self._cache: set[int] = set()
        self._steps: asyncio.Task[None] | None = None
        self.busy_s = 0.0

    @property
    def load(self) -> int:
        return len(self._waiting) + self._running

    async def sample(self, prompt_ids: list[int], tokens: list[int]) -> None:
        """Take as long as a real engine would to answer `prompt_ids` with `tokens`."""
        blocks = list(_blocks(prompt_ids))
        cached = sum(block in self._cache for block in blocks)
        self._cache.update(blocks)
        request = Request(len(tokens), len(prompt_ids) - BLOCK * cached, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._steps is None:
            self._steps = asyncio.create_task(self._step_while_busy())
        await request.done
        self._cache.update(_blocks(prompt_ids + tokens))

    async def _step_while_busy(self) -> None:
        while self.load:
            admitted = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._places))]
            for request in admitted:
                self._done_after[self._step + request.tokens].append(request)
            self._running += len(admitted)
            prefill = sum(request.prefill for request in admitted)
            seconds = self._speed.step_s + self._speed.sequence_s * self._running + self._speed.prefill_s * prefill
            await asyncio.sleep(seconds)
            self.busy_s += seconds
            self._step += 1
            for request in self._done_after.pop(self._step, ()):
                request.done.set_result(None)
                self._running -= 1
        self._steps = None

    @property
    def _places(self) -> int:
        return self._speed.max_num_seqs - self._running


class SimulatedFleet:
    """Engines with verl's client: a request id stays with its engine, a new one goes to the least loaded.

    Attributes:
        engines: of the fleet.
        sampled_tokens: tokens sampled so far.
        turns: answers so far.
    """

    def __init__(self, engines: int, speed: EngineSpeed, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._home: dict[str, SimulatedEngine] = {}
        self.engines = [SimulatedEngine(speed) for _ in range(engines)]
        self.sampled_tokens = self.turns = 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """Sample one turn of random tokens."""
        if request_id not in self._home:
            self._home[request_id] = min(self.engines, key=lambda engine: engine.load)
        count = sampling_params["max_tokens"]
        tokens = self._rng.integers(VOCABULARY.start, VOCABULARY.stop, count).tolist()
        log_probs = (-self._rng.standard_exponential(count)).tolist()
        await self._home[request_id].sample(prompt_ids, tokens)
        self.sampled_tokens += len(tokens)
        self.turns += 1
        return TokenOutput(token_ids=tokens, log_probs=log_probs, extra_fields={})


def _blocks(token_ids: list[int]) -> Iterator[int]:
    """Names of the full blocks of a context; each stands for all tokens up to its end."""
    name = 0
    for end in range(BLOCK, len(token_ids) + 1, BLOCK):
        name = hash((name, *token_ids[end - BLOCK : end]))
        yield name
