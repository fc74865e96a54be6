"""An agent behind the gateway: two turns, two sub-agents at the same time, and a compacted context."""

from __future__ import annotations

import asyncio

import openai


async def delegate(task, base_url, api_key):
    """Ask, let sub-agents ask, go on with what they said, and end with a summary of it."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:

        async def ask(*messages):
            answered = await client.chat.completions.create(model="policy", messages=list(messages), max_tokens=6)
            return answered.choices[0].message.model_dump(exclude_none=True)

        def user(text):
            return {"role": "user", "content": text}

        first = await ask(*task.messages)
        found = await asyncio.gather(*(ask(user(f"w{number} w{number}")) for number in (1, 2)))
        await ask(*task.messages, first, user(" ".join(each["content"] for each in found)))
        await ask(user("w3"))
