"""Construction of a config's tools before training; a tool that cannot work is refused with a remedy.

verl makes them in its rollout workers, minutes after the start, and without most of these checks.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Iterator
from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool
from verl.tools.tool_registry import load_all_tools

from verl_atpo.failure import brief
from verl_atpo.settings import ConfigError
from verl_atpo.tools.stateful import Action, StatefulTool, action_names, expanded, method_of

REMOVED = {
    "search_tool": "verl_atpo.search_qa.search_tool.SearchTool, as in verl_atpo/search_qa/search.yaml",
    "mcp_search_tool": "verl_atpo.search_qa.search_tool.SearchTool, as in verl_atpo/search_qa/search.yaml",
    "sandbox_fusion_tools": "verl_atpo.tools.python.PythonTool, as in verl_atpo/tools/python.yaml",
    "gsm8k_tool": "a reward function that checks the answer, or a verl_atpo.tools.StatefulTool of your own",
    "geo3k_tool": "a reward function that checks the answer, or a verl_atpo.tools.StatefulTool of your own",
    "image_zoom_in_tool": "a function under verl's @function_tool that returns ToolResponse(image=[...])",
    "mcp_base_tool": "a function under verl's @function_tool that asks your MCP server",
}
"""Modules of tools that earlier versions of verl had in ``verl.tools`` -> what to write instead."""
PRESENT = ("base_tool", "function_tool", "schemas", "tool_registry")
"""Modules of ``verl.tools`` in verl 0.9."""


def removed_tool(class_name: str) -> str | None:
    """Say what to write instead of a tool class that verl no longer has; None for any other class.

    Args:
        class_name: dotted, as in a tool config file.
    """
    parts = class_name.split(".")
    if parts[:2] != ["verl", "tools"] or len(parts) < 4 or parts[2] in PRESENT:
        return None
    instead = REMOVED.get(parts[2], "a verl_atpo.tools.StatefulTool or a function under verl's @function_tool")
    return f"verl 0.9 has no {class_name} any more; write {instead}."


def make_tools(tool_config_path: str | None, function_tool_path: str | None) -> list[Any]:
    """Make the tools of both files as a rollout worker will, and check them.

    Args:
        tool_config_path: verl's ``multi_turn.tool_config_path``, a path that exists, or None.
        function_tool_path: verl's ``multi_turn.function_tool_path``, likewise.

    Returns:
        All that the model can call: function tools, ``BaseTool``s, and the actions of stateful tools.

    Raises:
        ConfigError: a tool cannot be made or called; names it, and what to write instead.
    """
    where = " and ".join(path for path in (tool_config_path, function_tool_path) if path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # verl prints schemas
            made = load_all_tools(tool_config_path, function_tool_path)
    except ConfigError as error:
        raise ConfigError(f"The tools of {where} cannot be made: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"The tools of {where} cannot be made: {brief(error)}{_hint(error)}") from error
    for tool in made:
        check_tool(tool, where)
    tools = expanded(made)
    names = [tool.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"The tools of {where} have one name: {', '.join(twice)}. A model calls a tool by its name: rename all "
            "but one."
        )
    return tools


def check_tool(tool: Any, where: str) -> None:
    """Refuse a tool that no model can call.

    Args:
        tool: as made for training.
        where: the file that names it.

    Raises:
        ConfigError: what is missing, and what to write.
    """
    problems = _function_problems(tool) if isinstance(tool, FunctionTool) else _class_problems(tool)
    for problem in problems:
        raise ConfigError(f"Tool {getattr(tool, 'name', tool)!r} of {where} cannot work: {problem}")


def _function_problems(tool: FunctionTool) -> Iterator[str]:
    yield from _signature_problems(tool.fn, 0, tool.tool_schema)


def _class_problems(tool: Any) -> Iterator[str]:
    kind = type(tool)
    if kind in (BaseTool, StatefulTool):
        yield f"{kind.__name__} is the base class; write a subclass of it and name that in class_name."
    for name in ("create", "execute", "release"):
        method = getattr(tool, name, None)
        if not callable(method):
            yield f"{kind.__qualname__} has no method {name}; make it a subclass of verl.tools.base_tool.BaseTool."
        elif not inspect.iscoroutinefunction(inspect.unwrap(method)):
            yield f"{kind.__qualname__}.{name} is awaited by verl; write `async def {name}`."
    if isinstance(tool, StatefulTool):
        yield from _stateful_problems(tool)
    elif kind.execute is BaseTool.execute:
        yield f"{kind.__qualname__} has no execute; write `async def execute(self, instance_id, parameters)`."


def _stateful_problems(tool: StatefulTool) -> Iterator[str]:
    kind = type(tool)
    if kind.open is StatefulTool.open:
        yield f"{kind.__qualname__} has no open; write `def open(self, ...)` that returns a trajectory's state."
    if kind.call is StatefulTool.call and not action_names(kind):
        yield f"{kind.__qualname__} has no call; write `def call(self, state, ...)`, or methods under @action."
    if (kind.snapshot is StatefulTool.snapshot) != (kind.restore is StatefulTool.restore):
        yield f"{kind.__qualname__} has one of snapshot and restore; write both, or neither."
    for each in expanded([tool]):
        if isinstance(each, Action) or kind.call is not StatefulTool.call:
            yield from _state_problems(method_of(each))
            yield from _signature_problems(method_of(each), 1, each.tool_schema)


def _state_problems(method: Callable[..., Any]) -> Iterator[str]:
    """Find a method that was written without its first argument, the state."""
    first = next(iter(inspect.signature(method).parameters.values()), None)
    if first is not None and first.annotation in (int, float, bool, "int", "float", "bool"):
        yield (
            f"the first argument of {method.__qualname__}, {first}, gets the trajectory's state; write "
            f"`def {method.__name__}(self, state, {first}, ...)`."
        )


def _signature_problems(function: Callable[..., Any], own: int, schema: Any) -> Iterator[str]:
    """List the schema's arguments that a function cannot take; its first ``own`` parameters are not the model's."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[own:]
    except (TypeError, ValueError):  # written in C
        return
    offered = schema.function.parameters
    named = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = [] if open_ended else sorted(set(offered.properties) - set(named))
    required = [name for name, each in named.items() if each.default is each.empty]
    needed = sorted(set(required) - set(offered.properties))
    if unknown or needed:
        yield (
            f"its tool_schema names the arguments {sorted(offered.properties)}, the code takes {sorted(named)}; "
            "correct the schema, or delete it so that it is made from the docstring."
        )


def _hint(error: BaseException) -> str:
    text = str(error)
    if "tool_schema" in text and isinstance(error, AttributeError):
        return ". A class without a schema: add tool_schema to its entry, or write get_openai_tool_schema."
    if "already registered" in text:
        return ". The file is run twice: put the functions into a file of their own."
    return ""
