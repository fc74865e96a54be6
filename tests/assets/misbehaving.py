"""Twelve ways in which a tool, an agent loop or a reward function misbehaves, and an agent loop that lets them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from verl.tools.function_tool import FunctionTool

from tests.assets.fakes import SCHEMA
from tests.assets.words_loop import WordsLoop

RELEASE = threading.Event()
"""Ends what hangs, at the end of a test."""


class OwnBase(BaseException):
    """What a library of somebody's raises."""


def _raise(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def misbehave() -> None:
        raise error

    return misbehave


async def _wait_for_ever() -> None:
    while not RELEASE.is_set():
        await asyncio.sleep(0.01)


async def _block_the_loop() -> None:
    RELEASE.wait()


async def _retry_for_ever() -> None:
    while not RELEASE.is_set():
        try:
            await asyncio.sleep(0.01)
            raise ConnectionError("cut")
        except:  # noqa: E722
            pass


async def _swallow_cancellation() -> None:
    while not RELEASE.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)


async def _hang_in_a_thread() -> None:
    await asyncio.to_thread(RELEASE.wait)


async def _leave_tasks() -> None:
    tasks.append(asyncio.create_task(_exit_later()))


async def _exit_later() -> None:
    await asyncio.sleep(0.02)
    sys.exit(3)


tasks: list[asyncio.Task] = []
"""Kept, so that nobody collects them."""

WAYS: dict[str, Callable[[], Awaitable[None]]] = {
    "CancelledError": _raise(asyncio.CancelledError()),
    "SystemExit": _raise(SystemExit(3)),
    "KeyboardInterrupt": _raise(KeyboardInterrupt()),
    "GeneratorExit": _raise(GeneratorExit()),
    "StopIteration": _raise(StopIteration()),
    "own BaseException": _raise(OwnBase("broken")),
    "awaits for ever": _wait_for_ever,
    "blocks the loop": _block_the_loop,
    "bare except": _retry_for_ever,
    "swallows cancellation": _swallow_cancellation,
    "hangs in a thread": _hang_in_a_thread,
    "leaves tasks": _leave_tasks,
}

misbehave: dict[str, Callable[[], Awaitable[None]]] = {}
"""The way that ``tool``, ``loop`` or ``reward`` goes in the current test."""


async def _look(at: int) -> str:
    if "tool" in misbehave:
        await misbehave["tool"]()
    return f"w{at % 30}"


def plain_look(at: int) -> str:
    """The same as a plain function, which runs in a thread."""
    if "plain tool" in misbehave:
        _in_thread(misbehave["plain tool"])
    return f"w{at % 30}"


def _in_thread(way: Callable[[], Awaitable[None]]) -> None:
    """What a plain function does that goes the way."""
    if way in (WAYS["StopIteration"], *(WAYS[name] for name in RAISES)):
        try:
            way().send(None)  # type: ignore[attr-defined]
        except RuntimeError:  # Python's own for a StopIteration in a coroutine; a plain function raises it
            next(iter(()))
    while not RELEASE.is_set():
        time.sleep(0.01)


RAISES = ("CancelledError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "own BaseException")
TOOL = FunctionTool(name="look", fn=_look, tool_schema=SCHEMA, is_async=True)
PLAIN_TOOL = FunctionTool(name="look", fn=plain_look, tool_schema=SCHEMA, is_async=False)


class Misbehaving(WordsLoop):
    """Asks a tool between turns, as verl's tool agent does: an error of it is read by the model."""

    def __init__(self, *args: Any, tools: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (self.tool,) = tools.tools

    async def observe(self, sampled: list[int]) -> list[int]:
        if "loop" in misbehave:
            await misbehave["loop"]()
        try:
            (text,) = await asyncio.gather(self.tool.call({"at": sampled[0]}))
        except Exception as error:
            text = f"w1 {error}"[:20]
        return self.tokenizer.encode(f"tool {text}", add_special_tokens=False)
