"""Base class of tools whose state lives as long as a trajectory: games, sandboxes, browsers, data bases."""

from __future__ import annotations

import asyncio
import inspect
import logging
import typing
import weakref
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from transformers.utils import get_json_schema
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import normalize_function_tool_return
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from verl_atpo.tools.contract import Branching

logger = logging.getLogger(__name__)


class StatefulTool(BaseTool):
    """A tool with one state per trajectory: made by :meth:`open`, used by :meth:`call`, released by :meth:`close`.

    Subclasses write ``open`` and ``call``, and ``close`` if there is something to release. A subclass that also writes
    ``snapshot`` and ``restore`` is branched by fork, any other by replay. Every method may be plain or ``async``; plain
    ones run in a thread. The schema that the model sees comes from the tool config or, without one, from ``call``'s
    type hints and Google-style docstring; the tool is then called ``name``, or like its class in lower case.

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
        super().__init__(config, tool_schema)  # type: ignore[arg-type]
        self._instances: dict[str, dict[str, Any]] = {}
        self._states: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def open(self, **kwargs: Any) -> Any:
        """Make the state of a new trajectory; ``kwargs`` are the data row's ``tools_kwargs.<tool>.create_kwargs``."""
        raise NotImplementedError

    def call(self, state: Any, **arguments: Any) -> Any:
        """Carry out one call of the model on ``state``; returns what a verl function tool may return."""
        raise NotImplementedError

    def close(self, state: Any) -> None:
        """Release ``state``; called exactly once for everything that ``open`` and ``restore`` returned."""

    def snapshot(self, state: Any) -> Any:
        """A copy of ``state`` that later calls do not change, not None; writing this makes the tool branch by fork."""
        raise NotImplementedError

    def restore(self, snapshot: Any) -> Any:
        """A new state equal to the one that ``snapshot`` was taken of; a snapshot may be restored many times."""
        raise NotImplementedError

    def get_openai_tool_schema(self) -> OpenAIFunctionToolSchema:
        """The schema read off :meth:`call`: its docstring, and all arguments but the state."""
        schema = get_json_schema(_without_state(self.call))
        schema["function"]["name"] = type(self).name or type(self).__name__.lower()
        return OpenAIFunctionToolSchema.model_validate(schema)

    # What follows is verl's interface, for samplers other than the tree's: one state per trajectory, found by the
    # loop's own data of it, and released when that is gone.

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        """verl calls this before every call; the state is made at a trajectory's first."""
        instance_id = instance_id or uuid4().hex
        self._instances[instance_id] = kwargs.get("create_kwargs") or {}
        return instance_id, ToolResponse()

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict]:
        """One call on the state of the trajectory that ``agent_data`` stands for."""
        trajectory = kwargs["agent_data"]
        if trajectory not in self._states:
            state = self._states[trajectory] = await run(self.open, **self._instances[instance_id])
            weakref.finalize(trajectory, _close_later, asyncio.get_running_loop(), self.close, state)
        return normalize_function_tool_return(await run(self.call, self._states[trajectory], **parameters))

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        """verl calls this after every call; the state stays."""
        self._instances.pop(instance_id, None)


async def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a plain function in a thread, or await an ``async`` one."""
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _close_later(loop: asyncio.AbstractEventLoop, close: Callable[[Any], Any], state: Any) -> None:
    if loop.is_closed():
        logger.warning("The event loop ended before %s could release a state.", getattr(close, "__qualname__", close))
    else:
        loop.call_soon_threadsafe(lambda: loop.create_task(run(close, state)))


def _without_state(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the docstring and signature of the bound method ``call``, less its first argument."""
    signature = inspect.signature(call)
    state, *arguments = signature.parameters.values()
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in [state, *arguments]):
        raise TypeError(
            f"{getattr(call, '__qualname__', call)}{signature} cannot be described to a model: name its arguments as "
            "in `def call(self, state, query: str) -> str`, or give the tool a tool_schema in the tool config."
        )

    def described() -> None: ...

    described.__doc__ = inspect.getdoc(call)
    described.__signature__ = signature.replace(parameters=arguments)  # type: ignore[attr-defined]
    hints = typing.get_type_hints(call)
    described.__annotations__ = {name: hint for name, hint in hints.items() if name != state.name}
    return described
