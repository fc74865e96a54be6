"""Client of the overhead benchmark, a process of its own: asks the gateway and an empty handler by turns.

It reads from its standard input a JSON object: ``empty``, the base URL of the empty handler; ``agents``, a list of base
URL and key; ``calls`` of each agent; ``messages`` and ``tools`` of a first request. It writes a list of pairs: seconds
of a call of the gateway, and of the same request to the empty handler.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp


async def converse(plan: dict[str, Any], number: int) -> list[tuple[float, float]]:
    """Time the calls of one conversation that grows."""
    base_url, key = plan["agents"][number]
    messages, pairs = list(plan["messages"]), list[tuple[float, float]]()
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as gateway, aiohttp.ClientSession(headers=headers) as empty:
        asked = ((gateway, base_url), (empty, plan["empty"]))
        for call in range(plan["calls"]):
            request = {"model": "policy", "messages": messages}
            if plan["tools"]:
                request["tools"] = plan["tools"]
            seconds, answers = [0.0, 0.0], [{}, {}]
            for place in ((0, 1), (1, 0))[(call + number) % 2]:
                session, url = asked[place]
                started = time.perf_counter()
                async with session.post(f"{url}/chat/completions", json=request) as response:
                    answers[place] = await response.json()
                seconds[place] = time.perf_counter() - started
            pairs.append((seconds[0], seconds[1]))
            message = answers[0]["choices"][0]["message"]
            messages = [*messages, {"role": "assistant", "content": message["content"]}, *plan["between"]]
    return pairs


async def main() -> None:
    """Run all conversations at the same time."""
    plan = json.load(sys.stdin)
    pairs = await asyncio.gather(*(converse(plan, number) for number in range(len(plan["agents"]))))
    json.dump([pair for found in pairs for pair in found], sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
