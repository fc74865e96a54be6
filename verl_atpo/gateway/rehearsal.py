"""A rehearsal of an agent outside of training: recorded once with given answers, then replayed at every call."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf
from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.gateway.loop import GatewayAgentLoop
from verl_atpo.gateway.service import close_service
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.divergence import describe_divergence


class GivenAnswers:
    """Replacement for the engine: answers every new context with the next of some texts, and a known one as before.

    Args:
        tokenizer: the model's.
        texts: the answers; the last one is given again and again.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._texts = itertools.chain(texts, itertools.repeat(texts[-1]))
        self._known: dict[tuple[int, ...], str] = {}

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """Answer a request, with the model's end token where there is room for it."""
        context = tuple(prompt_ids)
        if context not in self._known:
            self._known[context] = next(self._texts)
        ids = self._tokenizer.encode(self._known[context], add_special_tokens=False)
        ids = [*ids, self._tokenizer.eos_token_id][: sampling_params["max_tokens"]]
        return TokenOutput(token_ids=ids, log_probs=[0.0] * len(ids), extra_fields={})


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """Result of a rehearsal.

    Attributes:
        calls: per call of the recorded run, the tokens of its context and the text of its answer.
        rows: rows of the recorded run.
        divergences: by number of calls to replay, a description of the run's different request.
    """

    calls: list[tuple[int, str]]
    rows: list[AgentLoopOutput]
    divergences: dict[int, str]


class AgentRehearsal:
    """Runs one agent on one task.

    Args:
        tokenizer: the model's.
        settings: settings of the gateway, which name the agent.
        format: verl's name of the model's tool calls.
        model_type: ``model_type`` of the model's ``config.json``.
        length: most tokens of a context.
    """

    def __init__(
        self,
        tokenizer: Any,
        settings: dict[str, Any],
        format: str = "hermes",
        model_type: str = "",
        length: int = 32768,
    ) -> None:
        self._tokenizer, self._settings, self._format = tokenizer, settings, format
        self._model_type, self._length = model_type, length

    async def rehearse(self, row: dict[str, Any], answers: Sequence[str]) -> Rehearsed:
        """Record a run, and replay it at each of its calls.

        Args:
            row: the data row; ``raw_prompt`` has the messages.
            answers: texts of the model, call by call.
        """
        engine = GivenAnswers(self._tokenizer, answers)
        try:
            first, rows = await self._run(row, ReplayClient(engine, None))
            divergences = {}
            for length in range(1, len(first.generations) + 1):
                again, _ = await self._run(row, ReplayClient(engine, None, first.generations[:length]))
                if again.unasked:
                    divergences[length] = describe_divergence(again, self._tokenizer.decode)
        finally:
            await close_service()
        calls = [
            (tokens, str(self._tokenizer.decode(generation.output.token_ids)))
            for tokens, generation in zip(_lengths(first), first.generations, strict=True)
        ]
        return Rehearsed(calls, rows, divergences)

    async def _run(self, row: dict[str, Any], session: ReplayClient) -> tuple[ReplayClient, list[AgentLoopOutput]]:
        rollout = {
            "name": "vllm",
            "prompt_length": self._length,
            "response_length": self._length,
            "max_model_len": self._length,
            "multi_turn": {"format": self._format},
            "custom": {"gateway": self._settings},
        }
        config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})
        dataset: Any = SimpleNamespace
        loop = GatewayAgentLoop(
            DictConfigWrap(config), session, self._tokenizer, None, dataset, DictConfigWrap(config.data),
            hf_model_type=self._model_type or None,
        )  # fmt: skip
        output = await loop.run({}, **row)
        session.close()
        return session, output if isinstance(output, list) else [output]


def _lengths(session: ReplayClient) -> list[int]:
    from verl_atpo.tree.recording import context_lengths

    return context_lengths(session.generations)
