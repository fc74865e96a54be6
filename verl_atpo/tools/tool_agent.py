"""Extension of verl's tool agent: rows without nulls, a count of calls that it answers itself, ends of episodes.

verl's ``ToolAgentLoop`` answers unknown functions, malformed arguments and errors around a tool by itself, so its
tools do not see them. Its methods are wrapped once per process; for tools that use none of this its behaviour is
unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from verl.tools.schemas import ToolResponse

from verl_atpo.seams.wrap import wrap_once
from verl_atpo.tools.answer import ends_episode
from verl_atpo.tools.row import without_nulls

_ENDED = "_verl_atpo_episode_ended"


class CallObserver(Protocol):
    """Observer of the tool calls of one run of an agent loop."""

    def asked(self, malformed: bool) -> None:
        """Note that a call is about to be made, in the model's order."""

    def answered_without_tool(self, name: str, arguments: Any, text: str) -> str:
        """Note that verl answered a call that did not reach its tool; returns what the model reads."""

    def ends_run(self) -> bool:
        """Return whether no further turn is to be sampled."""


class Reached:
    """Record of whether a call reached its tool."""

    def __init__(self) -> None:
        self.tool = False


OBSERVER: ContextVar[CallObserver | None] = ContextVar("verl_atpo_call_observer", default=None)
"""Observer of the run that the current task belongs to; None under verl's own sampler."""
REACHED: ContextVar[Reached | None] = ContextVar("verl_atpo_call_reached", default=None)
"""Record of the call that the current task makes for verl's tool agent."""


def episode_ended(trajectory: Any) -> bool:
    """Return whether a tool ended the episode of the trajectory of verl's ``agent_data``."""
    return bool(getattr(trajectory, _ENDED, False))


def complete_tool_agent() -> None:
    """Wrap the methods of verl's tool agent, unless that was done in this process."""
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop

    wrap_once(ToolAgentLoop, "__init__", _with_expanded_tools)
    wrap_once(ToolAgentLoop, "_call_tool", _observed)
    wrap_once(ToolAgentLoop, "_handle_processing_tools_state", _with_an_end)


def malformed(name: str, arguments: Any, tools: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Check whether a call is malformed, and find the answer that verl does not give.

    Args:
        name: name of the function.
        arguments: JSON text.
        tools: on offer, by name.

    Returns:
        True for an unknown function, arguments that are no JSON object or that lack a required one; and the answer
        for JSON that is no object, which verl hands to the tool.
    """
    if name not in tools:
        return True, None
    try:
        given = json.loads(arguments)
    except (ValueError, TypeError, RecursionError):
        return True, None
    if not isinstance(given, dict):
        return True, f"Arguments of {name!r} have to be a JSON object, got {type(given).__name__}."
    return any(each not in given for each in tools[name].tool_schema.function.parameters.required), None


def _observed(call_tool: Any) -> Any:
    async def observed(self: Any, tool_call: Any, tools_kwargs: Any, agent_data: Any) -> Any:
        tools, observer, reached = getattr(agent_data, "_active_tools", self.tools), OBSERVER.get(), Reached()
        is_malformed, said = malformed(tool_call.name, tool_call.arguments, tools)
        if observer is not None:
            observer.asked(is_malformed)
        token = REACHED.set(reached)
        try:
            if said is None:
                kwargs = _kwargs_for(tools.get(tool_call.name), tools_kwargs)
                response, reward, metrics = await call_tool(self, tool_call, kwargs, agent_data)
            else:
                response, reward, metrics = ToolResponse(text=said), 0.0, {}
        finally:
            REACHED.reset(token)
        if observer is not None and not reached.tool:
            text = observer.answered_without_tool(tool_call.name, tool_call.arguments, response.text or "")
            response = response.model_copy(update={"text": text})
        if ends_episode(metrics):
            setattr(agent_data, _ENDED, True)
        return response, reward, metrics

    return observed


def _kwargs_for(tool: Any, tools_kwargs: Any) -> dict[str, Any]:
    """Return the row's ``tools_kwargs`` without nulls; an action finds those of the tool that has its state."""
    from verl_atpo.tools.stateful import names_in_rows

    found: dict[str, Any] = without_nulls(tools_kwargs) or {}
    for name in names_in_rows(tool) if tool is not None else []:
        if name in found:
            found = {**found, tool.name: found[name]}
            break
    return found


def _with_an_end(process_tools: Any) -> Any:
    async def processed(self: Any, agent_data: Any) -> Any:
        from verl.experimental.agent_loop.tool_agent_loop import AgentState

        state = await process_tools(self, agent_data)
        observer = OBSERVER.get()
        ended = episode_ended(agent_data) or (observer is not None and observer.ends_run())
        return AgentState.TERMINATED if ended else state

    return processed


def _with_expanded_tools(init: Any) -> Any:
    def made(self: Any, *args: Any, tools: Any = None, **kwargs: Any) -> None:
        from verl.experimental.agent_loop.agent_loop import ToolListWrap

        from verl_atpo.tools.stateful import expanded

        init(self, *args, tools=ToolListWrap(expanded(tools.tools)) if tools else tools, **kwargs)

    return made
