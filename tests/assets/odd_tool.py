"""A tool that misbehaves in real runs: on every ninth call, in turn in the ways that ``ODD_TOOL`` lists."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from verl.tools.function_tool import function_tool

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
