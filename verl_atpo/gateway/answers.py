"""An answer of the policy as an assistant message: its text, its tool calls and why it ended."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_atpo.gateway.fingerprint import Fingerprint
from verl_atpo.gateway.messages import Message, ToolUse, with_plain_arguments

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request in one form for both APIs.

    Attributes:
        messages: the conversation.
        tools: on offer, as chat completions define them.
        max_tokens: longest answer; None for as many as there is room for.
        stop: texts at which sampling ends.
        parallel: whether an answer may make several tool calls.
        plain_arguments: whether the API sends arguments as objects, so that a harness cannot send back their text.
        model: the name that the harness uses for the policy.
    """

    messages: list[Message]
    tools: list[dict[str, Any]]
    max_tokens: int | None
    stop: tuple[str, ...] = ()
    parallel: bool = True
    plain_arguments: bool = False
    model: str = "policy"


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answered request.

    Attributes:
        id: short name, a function of context and answer, so that a replayed answer has the same.
        message: message for the harness.
        finish: ``stop``, ``length`` or ``tool_calls``.
        stopped_at: the stop text that ended it.
        context, sampled: ids of the call.
        log_probs: log-probs of the sampled ids, in nats.
        cached: ids of the context that met the engine's prefix cache.
    """

    id: str
    message: Message
    finish: str
    stopped_at: str | None
    context: list[int]
    sampled: list[int]
    log_probs: list[float] | None
    cached: int


class AnswerReader:
    """Reads sampled ids as assistant messages.

    Args:
        tokenizer: the model's.
        parser: verl's tool parser of the model's format.
    """

    def __init__(self, tokenizer: Any, parser: ToolParser) -> None:
        self._tokenizer, self._parser = tokenizer, parser
        self._special = sorted(map(str, tokenizer.all_special_tokens), key=len, reverse=True)
        self._ends = {tokenizer.eos_token_id, *parser.stop_token_ids}

    async def read(self, ask: Ask, context: list[int], known: Fingerprint, output: Any, limit: int) -> Answer:
        """Read the engine's output as an answer.

        Args:
            ask: the request.
            context: ids that the engine was asked with.
            known: their fingerprint.
            output: its answer: ``token_ids``, ``log_probs``, ``extra_fields``.
            limit: tokens that it could sample at most.
        """
        sampled = list(output.token_ids)
        name = known.name(sampled)
        content, calls = await self._text_and_calls(ask, sampled, name)
        content, stopped_at = _cut(content, ask.stop)
        if stopped_at is not None:
            calls = []
        ended = stopped_at is not None or sampled[-1] in self._ends
        finish = "tool_calls" if calls else "length" if not ended and len(sampled) >= limit else "stop"
        return Answer(
            id=name,
            message=Message("assistant", content, tuple(calls)),
            finish=finish,
            stopped_at=stopped_at,
            context=context,
            sampled=sampled,
            log_probs=None if output.log_probs is None else list(output.log_probs),
            cached=output.extra_fields.get("num_cached_tokens") or 0,
        )

    async def _text_and_calls(self, ask: Ask, sampled: list[int], name: str) -> tuple[str, list[ToolUse]]:
        text = str(self._tokenizer.decode(sampled, skip_special_tokens=True))
        if not ask.tools:
            return text, []
        try:
            content, found = await self._parser.extract_tool_calls(sampled, parser_schemas(ask.tools))
        except Exception as error:  # it was sampled, so it is answered and trained as it stands
            logger.warning("The tool parser failed, so the answer is plain text: %s: %s", type(error).__name__, error)
            return text, []
        if not found:
            return text, []
        for token in self._special:
            content = content.replace(token, "")
        uses = [
            ToolUse(call.tool_call_id or f"call_{name}_{number}", call.name, call.arguments)
            for number, call in enumerate(found)
        ]
        if ask.plain_arguments:
            uses = with_plain_arguments(uses)
        return content, uses if ask.parallel else uses[:1]


def _cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Return the text before the first stop text, and that stop text."""
    places = [(text.find(stop), stop) for stop in stops if stop in text]
    if not places:
        return text, None
    place, stop = min(places)
    return text[:place], stop


def parser_schemas(tools: Sequence[Mapping[str, Any]]) -> list[OpenAIFunctionToolSchema]:
    """Convert the tools to verl's schema, which knows the types of top-level arguments only."""
    return [
        OpenAIFunctionToolSchema.model_validate({"type": "function", "function": _flat(tool["function"])})
        for tool in tools
    ]


def _flat(function: Mapping[str, Any]) -> dict[str, Any]:
    properties = (function.get("parameters") or {}).get("properties") or {}
    types = {
        name: kind if isinstance(kind := _type(schema), str | list) else "object" for name, schema in properties.items()
    }
    return {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": {"type": "object", "properties": {name: {"type": kind} for name, kind in types.items()}},
    }


def _type(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return "object"
    if "type" in schema:
        return schema["type"]
    kinds = [_type(option) for option in schema.get("anyOf") or schema.get("oneOf") or ()]
    return next((kind for kind in kinds if kind != "null"), "string" if "enum" in schema else "object")
