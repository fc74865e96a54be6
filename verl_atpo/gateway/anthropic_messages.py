"""The messages API of Anthropic: requests as :class:`Ask`, answers in its format, plain and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from verl_atpo.gateway.answers import Answer, Ask
from verl_atpo.gateway.chat_completions import read_tools
from verl_atpo.gateway.errors import ApiError, unsupported
from verl_atpo.gateway.messages import Message, ToolUse, read_text, with_plain_arguments
from verl_atpo.gateway.parameters import must_be, note_ignored, positive, read_object, refuse_unknown, texts

SAMPLING = ("temperature", "top_p", "top_k", "effort", "output_config")
MEANINGLESS = ("metadata", "service_tier", "cache_control", "betas", "container", "context_management")
READ = ("messages", "model", "system", "tools", "tool_choice", "max_tokens", "stop_sequences", "stream", "thinking")
FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def read_request(body: Any) -> Ask:
    """Read a request.

    Raises:
        ApiError: a field that is wrong or that cannot be honoured.
    """
    body = read_object(body)
    refuse_unknown(body, *READ, *SAMPLING, *MEANINGLESS)
    note_ignored(body, *SAMPLING)
    output = body.get("output_config")
    if isinstance(output, Mapping) and output.get("format") is not None:
        raise unsupported("output_config.format", output["format"], "none")
    thinking = body.get("thinking")
    if thinking is not None:
        must_be(
            {"thinking.type": thinking.get("type") if isinstance(thinking, Mapping) else thinking},
            "thinking.type",
            "disabled",
        )
    tools = read_tools([_tool(tool, number) for number, tool in enumerate(_list(body.get("tools") or [], "tools"))])
    choice = body.get("tool_choice") or {"type": "auto"}
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    if kind == "none":
        tools = []
    elif kind not in ("auto", "any"):  # sampling does not enforce `any`
        raise unsupported("tool_choice", choice, "a type of auto, any or none")
    return Ask(
        messages=_messages(body),
        tools=tools,
        max_tokens=positive(body, "max_tokens"),
        stop=texts(body, "stop_sequences"),
        parallel=not (isinstance(choice, Mapping) and choice.get("disable_parallel_tool_use", False)),
        plain_arguments=True,
        model=str(body.get("model", "policy")),
    )


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ApiError(400, f"{where}: expected a list.", param=where)
    return value


def _tool(tool: Any, number: int) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or tool.get("type", "custom") != "custom" or not isinstance(tool.get("name"), str):
        raise ApiError(
            400, f"tools[{number}]: expected a tool of the client, with name and input_schema.", param="tools"
        )
    function = {"name": tool["name"], "description": tool.get("description") or ""}
    return {"type": "function", "function": {**function, "parameters": tool.get("input_schema") or {"type": "object"}}}


def _messages(body: Mapping[str, Any]) -> list[Message]:
    messages = []
    if system := _text(body.get("system"), "system"):
        messages.append(Message("system", system))
    sent = _list(body.get("messages"), "messages")
    for number, message in enumerate(sent):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant", "system"):
            raise ApiError(400, f"{where}: expected the role user or assistant.", param=where)
        read = _assistant if message["role"] == "assistant" else _user
        messages += read(message, where)
    if not sent or messages[-1].role == "assistant":
        raise ApiError(400, "messages: expected at least one, the last one not the assistant's.", param="messages")
    return messages


def _text(content: Any, where: str) -> str:
    """Read a text, or blocks of text; marks of caching in them have no effect."""
    return read_text(content, where)


def _user(message: Mapping[str, Any], where: str) -> list[Message]:
    """Read a user's message: results of tools first, each as a message of its own, then its text."""
    content = message.get("content")
    if isinstance(content, str):
        return [Message(message["role"], content)]
    found, rest = [], []
    for number, block in enumerate(_list(content, f"{where}.content")):
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            text = _text(block.get("content"), f"{where}.content[{number}].content")
            found.append(Message("tool", text, call_id=str(block.get("tool_use_id"))))
        else:
            rest.append(block)
    return [*found, Message(message["role"], _text(rest, f"{where}.content"))] if rest else found


def _assistant(message: Mapping[str, Any], where: str) -> list[Message]:
    content = message.get("content")
    if isinstance(content, str):
        return [Message("assistant", content)]
    calls, rest = [], []
    for block in _list(content, f"{where}.content"):
        if isinstance(block, Mapping) and block.get("type") == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            calls.append(ToolUse(str(block.get("id")), str(block.get("name")), arguments))
        else:
            rest.append(block)
    return [Message("assistant", _text(rest, f"{where}.content"), tuple(with_plain_arguments(calls)))]


def completion(answer: Answer, ask: Ask) -> dict[str, Any]:
    """Write the answer as one object."""
    finish = "stop_sequence" if answer.stopped_at is not None else FINISH[answer.finish]
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": _blocks(answer),
        "stop_reason": finish,
        "stop_sequence": answer.stopped_at,
        "usage": _usage(answer),
    }


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    message = answer.message
    blocks: list[dict[str, Any]] = []
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    for call in message.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)})
    return blocks


def _input(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _usage(answer: Answer) -> dict[str, int]:
    cached = min(answer.cached, len(answer.context))
    return {
        "input_tokens": len(answer.context) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": len(answer.sampled),
    }


def events(answer: Answer, ask: Ask) -> Iterator[dict[str, Any]]:
    """Write the answer as the events of a stream; each event's name is its type."""
    whole = completion(answer, ask)
    opened = {**whole, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": {**opened, "usage": {**whole["usage"], "output_tokens": 0}}}
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            start, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            text = json.dumps(block["input"], ensure_ascii=False)
            start, delta = {**block, "input": {}}, {"type": "input_json_delta", "partial_json": text}
        yield {"type": "content_block_start", "index": index, "content_block": start}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ends = {name: whole[name] for name in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": ends, "usage": {"output_tokens": whole["usage"]["output_tokens"]}}
    yield {"type": "message_stop"}


def error_body(error: ApiError) -> dict[str, Any]:
    """Write a refusal in the API's format."""
    return {"type": "error", "error": {"type": error.kind, "message": error.message}}
