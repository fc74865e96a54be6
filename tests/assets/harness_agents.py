"""One task, solved with four harnesses from the registry; run as ``python harness_agents.py NAME`` behind the gateway.

It needs none of this project's packages: the harnesses live in an environment of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

URL, KEY, MODEL = (os.environ[f"OPENAI_{name}"] for name in ("BASE_URL", "API_KEY", "MODEL"))
with open(os.environ["TASK_FILE"], encoding="utf-8") as file:
    TASK = json.load(file)["text"]
CLOCK = os.environ.get("CLOCK")
if CLOCK:
    import time

    TASK += f" It is {time.time()} s."


def look_up(query: str) -> str:
    """Find a town.

    Args:
        query: its name.
    """
    return f"{query} is in Norway."


def openai_agents() -> str:
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    model = OpenAIChatCompletionsModel(model=MODEL, openai_client=AsyncOpenAI(base_url=URL, api_key=KEY))
    search = function_tool(look_up, name_override="search")
    agent = Agent(name="helper", instructions="Be brief.", model=model, tools=[search])
    return str(Runner.run_sync(agent, TASK).final_output)


def smolagents() -> str:
    from smolagents import OpenAIServerModel, ToolCallingAgent, tool

    @tool
    def search(query: str) -> str:
        """Find a town.

        Args:
            query: its name.
        """
        return look_up(query)

    model = OpenAIServerModel(model_id=MODEL, api_base=URL, api_key=KEY)
    agent = ToolCallingAgent(tools=[search], model=model, max_steps=4, verbosity_level=0)
    return str(agent.run(TASK))


def langgraph() -> str:
    from langchain_openai import ChatOpenAI

    try:
        from langchain.agents import create_agent
    except ImportError:
        from langgraph.prebuilt import create_react_agent as create_agent
    from langchain_core.tools import tool

    search = tool("search")(look_up)
    agent = create_agent(ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY), [search])
    answer = agent.invoke({"messages": [("user", TASK)]})
    return str(answer["messages"][-1].content)


def pydantic_ai() -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))
    agent = Agent(model, system_prompt="Be brief.")
    agent.tool_plain(name="search")(look_up)
    return str(asyncio.run(agent.run(TASK)).output)


if __name__ == "__main__":
    answer = globals()[sys.argv[1]]()
    with open(os.environ["RESULT_FILE"], "w", encoding="utf-8") as file:
        json.dump({"answer": answer}, file)
