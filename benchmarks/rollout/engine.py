"""Engines with the one method of verl's client that a rollout needs: vLLM, and a simulated one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from verl.plugin.platform import get_platform
from verl.workers.rollout.replica import TokenOutput

from benchmarks.rollout.agent import VOCABULARY
from verl_atpo.platforms import cpu_platform_requested
from verl_atpo.platforms.cpu_preset import CPU_PRESET


class VllmClient:
    """vLLM's asynchronous engine, one server, asked as verl's server asks it.

    Attributes:
        sampled_tokens: tokens it sampled so far.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.sampled_tokens = 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """One turn."""
        from vllm import SamplingParams, TokensPrompt

        parameters = SamplingParams(logprobs=0, ignore_eos=True, **sampling_params)
        prompt = TokensPrompt(prompt_token_ids=prompt_ids)
        *_, final = [answer async for answer in self._engine.generate(prompt, parameters, uuid4().hex)]
        tokens = list(final.outputs[0].token_ids)
        self.sampled_tokens += len(tokens)
        log_probs = [scores[token].logprob for token, scores in zip(tokens, final.outputs[0].logprobs, strict=True)]
        cached = {"num_cached_tokens": final.num_cached_tokens}
        return TokenOutput(token_ids=tokens, log_probs=log_probs, extra_fields=cached)

    async def forget(self) -> None:
        """Empty the prefix cache, so that every measurement starts cold."""
        await self._engine.reset_prefix_cache()


@contextlib.asynccontextmanager
async def vllm_server(model: Path, max_model_len: int, max_num_seqs: int) -> AsyncIterator[VllmClient]:
    """A running vLLM engine in a process of its own, set up as the platform's runs set it up; stopped at the end.

    SIGTERM is an end too: it cancels the calling task. Otherwise the engine's process would outlive this one.
    """
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    on_cpu: dict[str, Any] = {}
    if cpu_platform_requested():
        os.environ.update(get_platform().rollout_env_vars())
        rollout = CPU_PRESET["actor_rollout_ref"]["rollout"]
        on_cpu = {"dtype": rollout["dtype"], **rollout["engine_kwargs"]["vllm"]}
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=str(model),
        enforce_eager=True,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        enable_prefix_caching=True,
        disable_log_stats=True,
        **on_cpu,
    )
    engine = AsyncLLM.from_engine_args(arguments)
    try:
        yield VllmClient(engine)
    finally:
        engine.shutdown()


class InstantClient:
    """Answers at once with random tokens: what is left to measure is everything but the engine."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self.turns = 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """One turn."""
        self.turns += 1
        count = sampling_params["max_tokens"]
        tokens = self._rng.choices(VOCABULARY, k=count)
        return TokenOutput(token_ids=tokens, log_probs=[-self._rng.random() for _ in tokens], extra_fields={})
