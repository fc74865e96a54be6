"""The agent with the OpenAI Agents SDK: its runner asks and calls the tools; here are the tools and the end."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

import agents
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from examples.black_box.repository import Repository

MOST_CALLS = 8
CERTIFICATES = ssl.create_default_context()
"""Read once for all trajectories, which takes 30 ms; the connections belong to each trajectory's event loop."""

agents.set_tracing_disabled(True)


async def solve(task: Any, base_url: str, api_key: str) -> dict[str, Any]:
    """Repair the repository of the data row; the reward function gets the files."""
    with Repository(task.extra_info) as repository:
        connections = DefaultAsyncHttpxClient(verify=CERTIFICATES)
        async with AsyncOpenAI(base_url=base_url, api_key=api_key, http_client=connections) as client:
            model = agents.OpenAIChatCompletionsModel(model="policy", openai_client=client)
            tools = [agents.function_tool(tool) for tool in (repository.check, repository.find, repository.edit)]
            agent = agents.Agent(name="repairer", model=model, tools=tools)
            # The model's own mistakes end a run; what it has done until then is scored.
            with contextlib.suppress(agents.MaxTurnsExceeded, agents.ModelBehaviorError):
                await agents.Runner.run(agent, task.text, max_turns=MOST_CALLS)
        return {"files": repository.files()}
