"""The chat completions API: requests as :class:`Ask`, answers in its format, plain and streamed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from verl_atpo.gateway.answers import Answer, Ask
from verl_atpo.gateway.errors import ApiError, unsupported
from verl_atpo.gateway.messages import read_messages
from verl_atpo.gateway.parameters import flag, must_be, note_ignored, positive, read_object, refuse_unknown, texts

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "reasoning_effort", "verbosity")
"""Parameters that the recipe sets instead."""
MEANINGLESS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream_options")
"""Parameters that are accepted and have no effect."""
READ = (
    "messages",
    "model",
    "tools",
    "tool_choice",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "stream",
    "logprobs",
)
FIXED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_logprobs": (0,),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Parameters that would change what is sampled, and the values that do not."""


def read_request(body: Any) -> Ask:
    """Read a request.

    Raises:
        ApiError: a field that is wrong or that cannot be honoured.
    """
    body = read_object(body)
    refuse_unknown(body, *READ, *SAMPLING, *MEANINGLESS, *FIXED, "parallel_tool_calls")
    for name, good in FIXED.items():
        must_be(body, name, *good)
    note_ignored(body, *SAMPLING)
    tools = read_tools(body.get("tools") or [])
    choice = body.get("tool_choice", "auto")
    if choice == "none":
        tools = []
    elif choice not in ("auto", "required"):  # sampling does not enforce `required`: the policy has to learn it
        raise unsupported("tool_choice", choice, "'auto', 'none' or 'required'")
    return Ask(
        messages=read_messages(body.get("messages")),
        tools=tools,
        max_tokens=min(
            filter(None, (positive(body, "max_completion_tokens"), positive(body, "max_tokens"))), default=None
        ),
        stop=texts(body, "stop"),
        parallel=flag(body, "parallel_tool_calls", True),
        model=str(body.get("model", "policy")),
    )


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Read the tools on offer, each with type and function.

    Raises:
        ApiError: one that is no function.
    """
    if not isinstance(value, list):
        raise ApiError(400, "tools: expected a list.", param="tools")
    for number, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ApiError(
                400, f"tools[{number}]: expected type 'function' and a function with a name.", param=f"tools[{number}]"
            )
        if not isinstance(function.get("parameters", {}), Mapping):
            raise ApiError(400, f"tools[{number}].function.parameters: expected a JSON schema.", param="tools")
    return value


def wants_log_probs(body: Any) -> bool:
    """Return whether the request wants log-probs of the answer's tokens."""
    return flag(read_object(body), "logprobs", False)


def completion(answer: Answer, ask: Ask, log_probs: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Write the answer as one object."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "refusal": None, **_message(answer)},
        "finish_reason": answer.finish,
        "logprobs": None if log_probs is None else {"content": log_probs, "refusal": None},
    }
    return {**_head(answer, ask, "chat.completion"), "choices": [choice], "usage": _usage(answer)}


def chunks(answer: Answer, ask: Ask, log_probs: list[dict[str, Any]] | None, usage: bool) -> Iterator[dict[str, Any]]:
    """Write the answer as the objects of a stream.

    Args:
        answer: the answer.
        ask: its request.
        log_probs: log-probs of its tokens, if they are wanted.
        usage: whether the counts of tokens are wanted, in a last object of their own.
    """
    head = _head(answer, ask, "chat.completion.chunk")
    message = _message(answer)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": message["content"]}]
    for number, call in enumerate(message.get("tool_calls", ())):
        opened = {**call, "index": number, "function": {**call["function"], "arguments": ""}}
        arguments = {"index": number, "function": {"arguments": call["function"]["arguments"]}}
        deltas += [{"tool_calls": [opened]}, {"tool_calls": [arguments]}]
    for number, delta in enumerate([*deltas, {}]):
        last = number == len(deltas)
        choice = {"index": 0, "delta": delta, "finish_reason": answer.finish if last else None, "logprobs": None}
        if number == 0 and log_probs is not None:
            choice["logprobs"] = {"content": log_probs, "refusal": None}
        yield {**head, "choices": [choice]}
    if usage:
        yield {**head, "choices": [], "usage": _usage(answer)}


def wants_usage(body: Any) -> bool:
    """Return whether a stream has to end with the counts of tokens."""
    options = read_object(body).get("stream_options") or {}
    return bool(isinstance(options, Mapping) and options.get("include_usage"))


def models() -> dict[str, Any]:
    """Describe the one model there is; requests may call it by any name."""
    return {"object": "list", "data": [{"id": "policy", "object": "model", "created": 0, "owned_by": "verl_atpo"}]}


def error_body(error: ApiError) -> dict[str, Any]:
    """Write a refusal in the API's format."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def _head(answer: Answer, ask: Ask, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": int(time.time()), "model": ask.model}


def _message(answer: Answer) -> dict[str, Any]:
    message = answer.message
    if not message.calls:
        return {"content": message.content}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.calls
    ]
    return {"content": message.content or None, "tool_calls": calls}


def _usage(answer: Answer) -> dict[str, Any]:
    prompt, sampled = len(answer.context), len(answer.sampled)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": answer.cached},
    }
