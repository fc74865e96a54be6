"""The gateway without Ray and vLLM: verl's own loop class, a real endpoint, and an engine that follows a script."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.workers.rollout.replica import TokenOutput

import verl_atpo.tiny
from verl_atpo.gateway.loop import GatewayAgentLoop
from verl_atpo.tiny.tokenizer import text_tokenizer

END = "<|im_end|>"
TEMPLATE = (Path(verl_atpo.tiny.__file__).parent / "chat_template.jinja").read_text()
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Find.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


def call_text(*queries: str, thought: str = "") -> str:
    """What the policy writes to call the tool ``search``."""
    calls = [
        f'<tool_call>\n{{"name": "search", "arguments": {{"query": "{query}"}}}}\n</tool_call>' for query in queries
    ]
    return thought + "\n".join(calls)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ChatML and Hermes tool calls."""
    lines = ["user assistant tool system search the query answer is Oslo", call_text("Oslo"), "<tool_response>"]
    return text_tokenizer(lines, TEMPLATE, context=100_000)


class ScriptedEngine:
    """Answers with the next text of a script, or with what a function makes of the context's text.

    Attributes:
        contexts, answers: ids of every request and its answer, in order.
        params: its sampling parameters.
    """

    def __init__(self, script: list[str] | Callable[[str], str], latency_s: float = 0.0) -> None:
        self._script = script if callable(script) else iter(script)
        self._latency_s = latency_s
        self.contexts: list[list[int]] = []
        self.answers: list[list[int]] = []
        self.params: list[dict[str, Any]] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        await asyncio.sleep(self._latency_s)
        text = self._script(tokenizer().decode(prompt_ids)) if callable(self._script) else next(self._script)
        for stop in sampling_params.get("stop", ()):
            if stop in text:
                text = text[: text.index(stop) + len(stop)]
                break
        else:
            text += END
        ids = tokenizer().encode(text, add_special_tokens=False)[: sampling_params["max_tokens"]]
        self.contexts.append(list(prompt_ids))
        self.answers.append(ids)
        self.params.append(dict(sampling_params))
        log_probs = [-0.5 - 0.001 * number for number in range(len(ids))]
        return TokenOutput(
            token_ids=list(ids),
            log_probs=log_probs,
            extra_fields={"global_steps": 3, "min_global_steps": 3, "max_global_steps": 3},
        )


def make_loop(engine: Any, agent: Any = None, **settings: Any) -> GatewayAgentLoop:
    """A loop that runs ``agent``, a function, or what the settings name."""
    if callable(agent):
        settings["agent"] = f"{__name__}:{_named(agent)}"
    rollout = {
        "name": "vllm",
        "prompt_length": 4096,
        "response_length": settings.pop("response_length", 4096),
        "max_model_len": settings.pop("max_model_len", None),
        "multi_turn": {"format": "hermes"},
        "custom": {"gateway": settings},
    }
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})
    return GatewayAgentLoop(
        DictConfigWrap(config),
        engine,
        tokenizer(),
        None,
        SimpleNamespace,
        DictConfigWrap(config.data),
        hf_model_type="qwen3",
    )


def _named(function: Any) -> str:
    """Put a test's function where an import finds it; returns its name."""
    name = f"agent_{id(function)}"
    globals()[name] = function
    return name


async def run(loop: GatewayAgentLoop, question: str = "Where is Oslo?", **row: Any) -> list[Any]:
    """Run the agent once; returns its rows."""
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    output = await loop.run({"temperature": 1.0, "logprobs": True}, raw_prompt=prompt, **row)
    return output if isinstance(output, list) else [output]


def sampled(rows: list[Any]) -> list[int]:
    """All ids that the rows train, in order."""
    return [token for row in rows for token, bit in zip(row.response_ids, row.response_mask, strict=True) if bit]
