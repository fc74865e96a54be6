"""Canonical form of chat messages, for comparing a harness's copy of an answer with the answer."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from verl_atpo.gateway.errors import ApiError

ROLES = ("system", "user", "assistant", "tool")
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ToolUse:
    """A call that an assistant message makes.

    Attributes:
        id: its name in the conversation.
        name: name of the tool.
        arguments: a JSON text, exactly as it was sent.
    """

    id: str
    name: str
    arguments: str


@dataclasses.dataclass(frozen=True)
class Message:
    """One chat message; two are equal if no template and no model could tell them apart.

    Attributes:
        role: one of :data:`ROLES`.
        content: its text; empty where there is none.
        calls: tool calls of an assistant.
        call_id: the call that a tool's message answers.
        name: name of the speaker or the tool.
        reasoning: reasoning of an assistant, if a harness keeps it apart from the content.
    """

    role: str
    content: str = ""
    calls: tuple[ToolUse, ...] = ()
    call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None

    def for_template(self) -> dict[str, Any]:
        """Write the message as chat templates expect it: arguments as objects where they are any."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _object(call.arguments)},
                }
                for call in self.calls
            ]
        named = {"tool_call_id": self.call_id, "name": self.name, "reasoning_content": self.reasoning}
        return message | {key: value for key, value in named.items() if value is not None}


def _object(arguments: str) -> Any:
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


def read_messages(value: Any) -> list[Message]:
    """Read the messages of a chat completions request.

    Raises:
        ApiError: names the message and the field that cannot be read.
    """
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages: expected a list of at least one message.", param="messages")
    messages = [_read(message, f"messages[{number}]") for number, message in enumerate(value)]
    if messages[-1].role == "assistant":
        raise ApiError(
            400,
            "messages: the last one is the assistant's; expected one to answer (a prefilled answer is not supported).",
            param="messages",
        )
    return messages


def _read(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise ApiError(400, f"{where}: expected an object with role and content.", param=where)
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ROLES:
        raise ApiError(400, f"{where}.role={role!r}: expected one of {', '.join(ROLES)}.", param=f"{where}.role")
    for name in ("function_call", "audio"):
        if message.get(name) is not None:
            why = f"{where}.{name} is not supported: expected text and tool_calls."
            raise ApiError(400, why, param=f"{where}.{name}", code="unsupported_parameter")
    calls = message.get("tool_calls") or ()
    if calls and (role != "assistant" or not isinstance(calls, list)):
        raise ApiError(400, f"{where}.tool_calls: expected a list, of an assistant's message.", param=where)
    return Message(
        role,
        read_text(message.get("content"), f"{where}.content"),
        tuple(_read_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)),
        _optional(message, "tool_call_id", where) if role == "tool" else None,
        _optional(message, "name", where),
        (_optional(message, "reasoning_content", where) or None) if role == "assistant" else None,
    )


def read_text(content: Any, where: str) -> str:
    """Read the text of a message's content: a text, nothing, or a list of parts that are all texts.

    Raises:
        ApiError: another kind of part.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(400, f"{where}: expected a text or a list of parts.", param=where)
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
            raise ApiError(
                400,
                f"{where}[{number}] is of the type {kind!r}: this endpoint takes text only. Remedy: send its text, or "
                "write the agent as an agent loop of verl, whose requests may have images.",
                param=where,
                code="unsupported_content",
            )
        texts.append(part[kind])
    return "".join(texts)


def _optional(message: Mapping[str, Any], field: str, where: str) -> str | None:
    value = message.get(field)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{where}.{field}: expected a text.", param=f"{where}.{field}")
    return value


def _read_call(call: Any, where: str) -> ToolUse:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise ApiError(400, f"{where}: expected an object with id and function.", param=where)
    name, text, arguments = call.get("id") or "", function.get("name"), function.get("arguments") or ""
    if not (isinstance(name, str) and isinstance(text, str) and isinstance(arguments, str)):
        raise ApiError(400, f"{where}: id, function.name and function.arguments are texts.", param=where)
    return ToolUse(name, text, arguments)


def difference(sent: Message, returned: Message) -> str:
    """Name a harness's change of an answer that it sent back: ``whitespace``, ``arguments``, ``thinking``, ``other``.

    Args:
        sent: the answer.
        returned: text in its place in a later request; not equal to it.
    """
    if _squeezed(sent) == _squeezed(returned):
        return "whitespace"
    if _squeezed(_loaded(sent)) == _squeezed(_loaded(returned)):
        return "arguments"
    if _squeezed(_loaded(_unthought(sent))) == _squeezed(_loaded(_unthought(returned))):
        return "thinking"
    return "other"


def _squeezed(message: Message) -> Message:
    return dataclasses.replace(message, content=" ".join(message.content.split()))


def _unthought(message: Message) -> Message:
    return dataclasses.replace(message, content=_THINKING.sub("", message.content), reasoning=None)


def _loaded(message: Message) -> Message:
    return dataclasses.replace(message, calls=tuple(with_plain_arguments(message.calls)))


def with_plain_arguments(calls: Sequence[ToolUse]) -> list[ToolUse]:
    """Normalise the spelling of the calls' arguments, for APIs that send objects and no texts."""
    return [
        dataclasses.replace(call, arguments=json.dumps(value, ensure_ascii=False))
        if isinstance(value := _object(call.arguments), dict)
        else call
        for call in calls
    ]
