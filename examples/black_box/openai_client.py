"""The agent with the package `openai`: ask, call the tools that the model wants, until it wants none."""

from __future__ import annotations

from typing import Any

import openai

from examples.black_box.repository import TOOLS, Repository

MOST_CALLS = 8
HTTP = openai.DefaultHttpxClient()
"""Connections that all trajectories share: to make one reads the machine's certificates, which takes 30 ms."""


def solve(task: Any, base_url: str, api_key: str) -> dict[str, Any]:
    """Repair the repository of the data row; the reward function gets the files."""
    messages = list(task.messages)
    client = openai.OpenAI(base_url=base_url, api_key=api_key, http_client=HTTP)
    with Repository(task.extra_info) as repository:
        for _ in range(MOST_CALLS):
            answer = client.chat.completions.create(model="policy", messages=messages, tools=TOOLS)
            message = answer.choices[0].message
            if not message.tool_calls:
                break
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                output = repository.call(call.function.name, call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
        return {"files": repository.files()}
