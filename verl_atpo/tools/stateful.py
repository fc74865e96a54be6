"""Base class of tools whose state lives as long as a trajectory: games, sandboxes, browsers, data bases."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import logging
import os
import sys
import typing
import weakref
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from transformers.utils import get_json_schema
from verl.tools import function_tool as verls
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from verl_atpo.deadlines.threads import in_thread
from verl_atpo.tools.answer import Answer, answer_of
from verl_atpo.tools.contract import Branching
from verl_atpo.tools.row import without_nulls

logger = logging.getLogger(__name__)

_ACTION = "__verl_atpo_action__"
_KEPT_AS = "_verl_atpo_states"
"""Attribute of a trajectory under a sampler that is not ours."""
_Method = typing.TypeVar("_Method", bound=Callable[..., Any])


def action(method: _Method) -> _Method:
    """Mark a method of a :class:`StatefulTool` as a function of its own that the model can call, on the same state."""
    setattr(method, _ACTION, True)
    return method


@dataclasses.dataclass(eq=False)
class _Held:
    """The state of one trajectory under a sampler that is not ours."""

    value: Any = None
    opened: bool = False
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)


class StatefulTool(BaseTool):
    """A tool with one state per trajectory: made by :meth:`open`, used by :meth:`call`, released by :meth:`close`.

    Subclasses write ``open`` and ``call``, and ``close`` if there is something to release. A subclass that also writes
    ``snapshot`` and ``restore`` is branched by fork, any other by replay. Every method may be plain or ``async``; plain
    ones run in a thread. The schema that the model sees comes from the tool config or, without one, from ``call``'s
    type hints and Google-style docstring; the tool is then called ``name``, or like its class in lower case.

    Instead of ``call`` there may be several methods under :func:`action`: each is a function of its own, called like
    the method, and all of a trajectory's share one state. Data rows name the tool, not its actions.

    Args:
        config: the tool's ``config`` in verl's tool config file.
        tool_schema: the tool's schema there, if any.
    """

    branching: Branching = Branching.REPLAY
    name: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "branching" not in cls.__dict__ and "snapshot" in cls.__dict__:
            cls.branching = Branching.FORK

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        from verl_atpo.tools.tool_agent import complete_tool_agent

        if tool_schema is not None and action_names(type(self)):
            raise TypeError(
                f"{type(self).__qualname__} has actions, which their docstrings describe: delete tool_schema"
            )
        super().__init__(config, tool_schema)  # type: ignore[arg-type]
        self._create_kwargs: dict[str, dict[str, Any]] = {}
        self._of_instance: dict[str, _Held] = {}
        _share_function_file(type(self))
        complete_tool_agent()

    def open(self, **kwargs: Any) -> Any:
        """Make the state of a new trajectory; ``kwargs`` are the data row's ``tools_kwargs.<tool>.create_kwargs``."""
        raise NotImplementedError

    def call(self, state: Any, **arguments: Any) -> Any:
        """Carry out one call of the model on ``state``; returns what :func:`verl_atpo.tools.answer.answer_of` takes."""
        raise NotImplementedError

    def close(self, state: Any) -> None:
        """Release ``state``; called exactly once for everything that ``open`` and ``restore`` returned."""

    def snapshot(self, state: Any) -> Any:
        """Copy ``state``, never to None, so that later calls do not change the copy; sets ``branching`` to fork."""
        raise NotImplementedError

    def restore(self, snapshot: Any) -> Any:
        """Make a new state equal to the one that ``snapshot`` was taken of; a snapshot may be restored many times."""
        raise NotImplementedError

    def get_openai_tool_schema(self) -> OpenAIFunctionToolSchema:
        """Make the schema from :meth:`call`: its docstring, and all arguments except the state.

        Of a tool with actions, which an agent loop never offers itself, all their schemas are the description: verl's
        filter of overlong prompts sees only this.
        """
        name = type(self).name or type(self).__name__.lower()
        if actions := action_names(type(self)):
            schemas = [described(getattr(self, each), each).model_dump(exclude_none=True) for each in actions]
            function = {"name": name, "description": json.dumps(schemas)}
            return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})
        return described(self.call, name)

    # What follows is verl's interface, for samplers other than ours. The state belongs to the trajectory that
    # `agent_data` stands for and is released when that is gone; without `agent_data` it belongs to the instance, from
    # `create` to `release`.

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        """Begin to use the tool; verl's tool agent does so before every call."""
        instance_id = instance_id or uuid4().hex
        self._create_kwargs[instance_id] = without_nulls(kwargs.get("create_kwargs")) or {}
        return instance_id, ToolResponse()

    async def execute(self, instance_id: str, parameters: dict[str, Any], **kwargs: Any) -> Answer:
        """Make one call on the state."""
        return await self._carry_out(self.call, instance_id, parameters, kwargs.get("agent_data"))

    async def _carry_out(
        self, method: Callable[..., Any], instance_id: str, parameters: dict[str, Any], trajectory: Any
    ) -> Answer:
        held = self._held(instance_id, trajectory)
        async with held.lock:
            if not held.opened:
                held.value = await run(self.open, **self._create_kwargs.get(instance_id, {}))
                held.opened = True
            return answer_of(await run(method, held.value, **parameters))

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        """End to use the tool; a state that belongs to a trajectory stays."""
        self._create_kwargs.pop(instance_id, None)
        held = self._of_instance.pop(instance_id, None)
        if held is not None and held.opened:
            await run(self.close, held.value)

    def _held(self, instance_id: str, trajectory: Any) -> _Held:
        if trajectory is None:
            return self._of_instance.setdefault(instance_id, _Held())
        states = _states_of(trajectory)
        if id(self) not in states.held:
            held = states.held[id(self)] = _Held()
            weakref.finalize(states, _close_later, asyncio.get_running_loop(), self.close, held)
        return states.held[id(self)]


class Action(BaseTool):
    """One of several functions of a :class:`StatefulTool`, made by :func:`expanded`.

    Args:
        owner: the tool, which has the state.
        name: name of the method.
    """

    def __init__(self, owner: StatefulTool, name: str) -> None:  # not verl's, which prints the schema
        self.owner, self.name, self.config = owner, name, owner.config
        self.method: Callable[..., Any] = getattr(owner, name)
        self.branching = owner.branching
        self.tool_schema = described(self.method, name)

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        """verl's ``create``, of the owner."""
        return await self.owner.create(instance_id, **kwargs)

    async def execute(self, instance_id: str, parameters: dict[str, Any], **kwargs: Any) -> Answer:
        """Make one call on the owner's state."""
        return await self.owner._carry_out(self.method, instance_id, parameters, kwargs.get("agent_data"))

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        """verl's ``release``, of the owner."""
        await self.owner.release(instance_id, **kwargs)


def action_names(kind: type) -> list[str]:
    """List the names of a class's methods under :func:`action`, in the order in which they are written."""
    names = [name for each in reversed(kind.__mro__) for name in vars(each)]
    return [name for name in dict.fromkeys(names) if getattr(getattr(kind, name, None), _ACTION, False)]


def expanded(tools: Iterable[Any]) -> list[Any]:
    """List the tools that a model can call: a tool with actions is replaced by its actions."""
    found: list[Any] = []
    for tool in tools:
        names = action_names(type(tool)) if isinstance(tool, StatefulTool) else []
        found += [Action(tool, name) for name in names] or [tool]
    return found


def owner_of(tool: Any) -> StatefulTool:
    """Return the tool that holds the state of a stateful tool or an action."""
    return tool.owner if isinstance(tool, Action) else tool


def method_of(tool: Any) -> Callable[..., Any]:
    """Return the method, of state and arguments, that carries out a call of a stateful tool or an action."""
    return tool.method if isinstance(tool, Action) else tool.call


def names_in_rows(tool: Any) -> list[str]:
    """List the names under which a row's ``tools_kwargs`` may hold a tool's arguments, the tool's own first."""
    return list(dict.fromkeys([tool.name, tool.owner.name if isinstance(tool, Action) else tool.name]))


async def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a plain function in a thread, or await an ``async`` one, wrapped or not."""
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    returned = await in_thread(function, *args, **kwargs)
    return await returned if inspect.isawaitable(returned) else returned


def described(method: Callable[..., Any], name: str) -> OpenAIFunctionToolSchema:
    """Make the schema of a bound method whose first argument is the state, under the name that the model calls."""
    schema = get_json_schema(_without_state(method))
    schema["function"]["name"] = name
    return OpenAIFunctionToolSchema.model_validate(schema)


class _States:
    """All states of one trajectory, by tool; the trajectory keeps it, and they are released when it is gone."""

    def __init__(self) -> None:
        self.held: dict[int, _Held] = {}


def _states_of(trajectory: Any) -> _States:
    states = getattr(trajectory, _KEPT_AS, None)
    if states is None:
        states = _States()
        try:
            setattr(trajectory, _KEPT_AS, states)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"agent_data is a {type(trajectory).__name__}: expected an object that lives as the trajectory does, "
                "such as verl's AgentData; or use verl_atpo.tools.Toolbox, which has one."
            ) from error
    return states


def _close_later(loop: asyncio.AbstractEventLoop, close: Callable[[Any], Any], held: _Held) -> None:
    if not held.opened:
        return
    if loop.is_closed():
        logger.warning("The event loop ended before %s could release a state.", getattr(close, "__qualname__", close))
    else:
        loop.call_soon_threadsafe(lambda: loop.create_task(run(close, held.value)))


def _without_state(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function with the docstring and signature of the bound method ``call``, without its first argument."""
    signature = inspect.signature(call)
    parameters = list(signature.parameters.values())
    if not parameters or any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
        raise TypeError(
            f"{getattr(call, '__qualname__', call)}{signature} cannot be described to a model: name its arguments as "
            "in `def call(self, state, query: str) -> str`, or give the tool a tool_schema in the tool config."
        )

    def described() -> None: ...

    described.__doc__ = inspect.getdoc(call)
    described.__signature__ = signature.replace(parameters=parameters[1:])  # type: ignore[attr-defined]
    hints = typing.get_type_hints(call)
    described.__annotations__ = {name: hint for name, hint in hints.items() if name != parameters[0].name}
    return described


def _share_function_file(kind: type) -> None:
    """Let verl find the function tools of a class's file where they are, instead of running the file again.

    verl runs ``function_tool_path`` as a module of another name, where a function that is registered already is
    refused.
    """
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    found = [tool for tool in verls.FUNCTION_TOOL_REGISTRY.values() if tool.fn.__module__ == kind.__module__]
    if file and found:
        for path in {os.path.abspath(file), os.path.realpath(file)}:
            verls._LOADED_FUNCTION_TOOL_PATHS.setdefault(path, found)
