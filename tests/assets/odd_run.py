"""A tool and an agent loop that misbehave in real runs: in turn, on every ninth call, in the ways of ``ODD_TOOL``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

from verl.tools.function_tool import function_tool

from tests.assets.words_loop import WordsLoop

EVERY = 9
calls = 0
tasks: list[asyncio.Task[None]] = []


async def _exits() -> None:
    sys.exit(3)


async def _lets_a_cancellation_escape() -> None:
    raise asyncio.CancelledError


async def _swallows_its_cancellation() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def _leaves_a_task_that_exits() -> None:
    async def later() -> None:
        await asyncio.sleep(0.1)
        sys.exit(4)

    tasks.append(asyncio.create_task(later()))


WAYS = {
    "exits": _exits,
    "lets a cancellation escape": _lets_a_cancellation_escape,
    "swallows its cancellation": _swallows_its_cancellation,
    "leaves a task that exits": _leaves_a_task_that_exits,
}


@function_tool("look")
async def look(at: int) -> str:
    """Looks at a place.

    Args:
        at: The place.
    """
    global calls
    calls += 1
    ways = [way for way in os.environ.get("ODD_TOOL", "").split(",") if way]
    if ways and calls % EVERY == 0:
        way = ways[calls // EVERY % len(ways)]
        print(f"odd tool: {way}", flush=True)
        await WAYS[way]()
    return f"w{at % 30}"


class OddLoop(WordsLoop):
    """Asks the tool between turns, as verl's tool agent does: an error of it is read by the model."""

    def __init__(self, *args: Any, tools: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (self.tool,) = tools.tools

    async def observe(self, sampled: list[int]) -> list[int]:
        try:
            text = await self.tool.call({"at": sampled[0]})
        except Exception:
            text = "w1"
        return self.tokenizer.encode(f"tool {text}", add_special_tokens=False)
