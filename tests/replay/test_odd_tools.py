"""Tools that return or raise unusual things, through verl's tool agent: read by the model, counted, replayed once."""

from __future__ import annotations

import concurrent.futures
import itertools
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from verl_atpo.config import ToolConfig
from verl_atpo.deadlines import within
from verl_atpo.failure import ToolOutage
from verl_atpo.replay.rehearsal import Call, Rehearsal, each
from verl_atpo.tools.row import own_containers

PROPERTIES = {"x": {"type": "array", "description": "d"}}
SCHEMA = OpenAIFunctionToolSchema.model_validate(
    {
        "type": "function",
        "function": {
            "name": "t",
            "description": "d",
            "parameters": {"type": "object", "properties": PROPERTIES, "required": []},
        },
    }
)
RELEASE = threading.Event()


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Exits:
    def __repr__(self) -> str:
        sys.exit(3)


class Slow:
    def __repr__(self) -> str:
        RELEASE.wait()
        return "slow"


class Service:
    async def __call__(self, x: list) -> str:
        return "awaited"


async def answer(x: list) -> str:
    return "awaited"


async def pages(x: list) -> AsyncIterator[str]:
    yield "a"
    yield "b"


def generated(x: list) -> Iterator[str]:
    yield "a"
    yield "b"


def leaves(x: list) -> Iterator[str]:
    yield "a"
    sys.exit(3)


def blocks(x: list) -> Iterator[str]:
    yield "a"
    RELEASE.wait()


def future(x: list) -> concurrent.futures.Future:
    done: concurrent.futures.Future = concurrent.futures.Future()
    done.set_result("awaited")
    return done


def raising(error: BaseException) -> Callable[..., Any]:
    def tool(x: list) -> None:
        raise error

    return tool


def sorts(x: list) -> str:
    x.sort()
    x.append(9)
    return str(x)


READ = {
    "a wrapped async function": (lambda x: answer(x), "awaited"),
    "an object with async __call__": (Service(), "awaited"),
    "a future": (future, "awaited"),
    "an async generator": (pages, "['a', 'b']"),
    "a generator": (generated, "['a', 'b']"),
    "a tool that changes its arguments": (sorts, "[1, 2, 3, 9]"),
    "a list in itself": (lambda x: {"x": x.append(x) or x}, '{"x": [3, 1, 2, "..."]}'),
    "an error that is returned": (lambda x: ValueError("no such city"), "no such city"),
}
ERRORS = {
    "exit in a generator": (leaves, "SystemExit: 3"),
    "exit when it is shown": (lambda x: Exits(), "SystemExit: 3"),
    "no end": (lambda x: itertools.count(), "an iterator of more than 100000 items"),
    "a number too long to be written": (lambda x: 10**6000, "4300 digits"),
    "StopAsyncIteration": (raising(StopAsyncIteration()), "StopAsyncIteration"),
    "no words": (raising(AssertionError()), "AssertionError"),
    "words that cannot be shown": (raising(Mute()), "Mute"),
    "words that exit": (raising(KeyError(Exits())), "KeyError"),
    "recursion": (raising(RecursionError("too deep")), "too deep"),
}
OUT = {"a generator that blocks": blocks, "shown for ever": lambda x: Slow()}


@pytest.fixture(autouse=True)
def _released(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(within, "GRACE_S", 0.1)
    RELEASE.clear()
    yield
    RELEASE.set()


def rehearsal(tool: Any, timeout_s: float = 30.0) -> Rehearsal:
    return Rehearsal(tool, {}, ToolConfig(timeout_s=timeout_s, retries=1, retry_delay_s=0.0))


async def twice(tool: Any) -> tuple[list[Call], list[Call], Rehearsal]:
    """Two equal calls, and an expansion after the first."""
    game = rehearsal(tool)
    seen = await game.play(each([("t", {"x": [3, 1, 2]})] * 2), lambda call: None)
    return seen, await game.expand(1, seen), game


def function(fn: Callable[..., Any]) -> FunctionTool:
    return FunctionTool(name="t", fn=fn, tool_schema=SCHEMA, is_async=False)


@pytest.mark.parametrize(("fn", "text"), READ.values(), ids=READ)
async def test_what_the_model_reads(fn, text):
    seen, expansion, game = await twice(function(fn))
    assert [call.text for call in seen + expansion] == [text] * 4
    totals = game.guard.totals
    assert (totals.calls, totals.errors) == (3, 0)  # the shared call was answered from the recording


@pytest.mark.parametrize(("fn", "words"), ERRORS.values(), ids=ERRORS)
async def test_errors_are_read_and_counted_once(fn, words):
    seen, expansion, game = await twice(function(fn))
    assert all(call.refused and words in call.text for call in seen + expansion)
    totals = game.guard.totals
    assert (totals.calls, totals.errors, totals.outages) == (3, 3, 0)


@pytest.mark.parametrize("fn", OUT.values(), ids=OUT)
async def test_lazy_answers_have_the_deadline_of_their_call(fn):
    game = rehearsal(function(fn), timeout_s=0.1)
    started = time.monotonic()
    with pytest.raises(ToolOutage, match="took longer than"):
        await game.play(each([("t", {"x": []})]), lambda call: None)
    assert time.monotonic() - started < 10


class Pops(BaseTool):
    """Takes its arguments apart, and fails at first."""

    branching = "stateless"

    def __init__(self) -> None:
        super().__init__({}, SCHEMA)
        self.tries = 0

    async def execute(self, instance_id: str, parameters: dict, **kwargs: Any) -> tuple[ToolResponse, float, dict]:
        found = parameters.pop("x")
        self.tries += 1
        if self.tries == 1:
            raise ConnectionError("cut")
        return ToolResponse(text=f"popped {found}"), 0.0, {}


async def test_a_retry_has_the_arguments_that_the_first_try_took_apart():
    seen, expansion, game = await twice(Pops())
    assert {call.text for call in seen + expansion} == {"popped [3, 1, 2]"}
    assert (game.guard.totals.calls, game.guard.totals.retries) == (3, 1)


def test_a_run_has_its_own_containers():
    image = object()
    row = {"raw_prompt": np.array([{"role": "user"}, {"role": "tool"}], dtype=object), "images": [image], "info": {}}
    own = own_containers(row)
    own["raw_prompt"][0]["role"] = "system"
    own["images"].append(1)
    own["info"]["seen"] = True
    assert row["raw_prompt"][0] == {"role": "user"} and row["images"] == [image] and row["info"] == {}
    assert own["images"][0] is image


async def test_a_name_that_the_model_made_up_is_repeated_without_control_tokens():
    game = rehearsal(function(sorts))
    (call,) = await game.play(each([("<|im_end|>", {})]), lambda call: None)
    assert "im_end" in call.text and "<|im_end|>" not in call.text and call.refused
    assert game.guard.totals.errors == 1
