"""Rules about the tools: they can be made, and stateful ones open and close with rows of the data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from verl_atpo.failure import brief, is_outage
from verl_atpo.settings import ConfigError, refuse, show
from verl_atpo.startup.materials import tools, train_rows, validation_rows
from verl_atpo.startup.rules.data import row_fields
from verl_atpo.startup.rules.rule import Rule, Run, Stage
from verl_atpo.startup.rules.tool_files import FUNCTION_TOOLS, TOOL_CONFIG
from verl_atpo.startup.trial import attempt

TRIAL_LIMIT_S = 5.0
"""Seconds that opening or closing one state may take here; a slower one is not checked."""


def _has_tools(run: Run) -> bool:
    return bool(run.get(TOOL_CONFIG) or run.get(FUNCTION_TOOLS))


def _made(run: Run) -> None:
    run.once(tools)


def _rows(run: Run) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the first and the last of the sampled rows of each file."""
    for rows in (*run.once(train_rows), *run.once(validation_rows)):
        names = list(rows.names())
        for name, row in dict([names[0], names[-1]]).items():
            yield name, row_fields(run, row)


def _opens(run: Run) -> None:
    run.once(_opened)


def _has_no_state(run: Run) -> str | None:
    """Warn of tools whose ``open`` returns nothing: what they keep in ``self`` all trajectories share."""
    method = next(iter(run.once(_opened)), None)
    return method and (
        f"{method} returned None: a trajectory's state is what it returns, and all trajectories share what it keeps in "
        "self. Return the state"
    )


def _opened(run: Run) -> list[str]:
    """Open and close a state of each tool; returns the methods that returned no state."""
    from verl_atpo.tools.row import create_kwargs
    from verl_atpo.tools.stateful import StatefulTool, names_in_rows, owner_of

    without = []
    for name, row in _rows(run):
        opened = set()
        for tool in run.once(tools):
            owner = owner_of(tool)
            if isinstance(owner, StatefulTool) and owner not in opened and _offers(row, tool):
                opened.add(owner)
                without.append(
                    _open_and_close(owner, create_kwargs(row.get("tools_kwargs"), names_in_rows(tool)), name)
                )
    return [method for method in without if method is not None]


def _offers(row: Mapping[str, Any], tool: Any) -> bool:
    """Return whether a row offers a tool to the model."""
    selection = (row.get("extra_info") or {}).get("tool_selection")
    return selection is None or not len(selection) or tool.name in selection


def _open_and_close(tool: Any, kwargs: Mapping[str, Any], name: str) -> str | None:
    """Open and close a state; returns the method that returned no state."""
    opened = attempt(lambda: tool.open(**kwargs), TRIAL_LIMIT_S)
    _refuse_error(tool, "open", name, kwargs, opened.raised)
    if opened.raised is None and opened.returned is None and not opened.late:
        return f"{type(tool).__qualname__}.open of the tool {tool.name!r}"
    if opened.raised is None and not opened.late:
        _refuse_error(tool, "close", name, kwargs, attempt(lambda: tool.close(opened.returned), TRIAL_LIMIT_S).raised)
    return None


def _refuse_error(tool: Any, method: str, name: str, kwargs: Mapping[str, Any], raised: BaseException | None) -> None:
    if raised is None or is_outage(raised):
        return
    wanted = inspect.signature(tool.open)
    raise ConfigError(
        f"{type(tool).__qualname__}.{method} of the tool {tool.name!r} cannot work with {name}: it raised "
        f"{brief(raised)}. "
        f"The row's extra_info.tools_kwargs gave create_kwargs={show(kwargs)} for open{wanted}. Correct the tool, "
        "or the "
        "data's extra_info.tools_kwargs."
    ) from raised


def _coroutines(run: Run) -> None:
    from verl.tools.base_tool import BaseTool

    for tool in run.once(tools):
        for method in ("create", "execute", "release") if isinstance(tool, BaseTool) else ():
            if not inspect.iscoroutinefunction(inspect.unwrap(getattr(tool, method))):
                kind = type(tool).__qualname__
                raise refuse(
                    TOOL_CONFIG,
                    run.get(TOOL_CONFIG),
                    f"{kind}.{method} of the tool {tool.name!r} is no coroutine function, but verl awaits it. Write "
                    f"`async def {method}`",
                )


RULES = (
    Rule(TOOL_CONFIG, _made, _has_tools, stage=Stage.REHEARSAL),
    Rule(TOOL_CONFIG, _coroutines, _has_tools, stage=Stage.REHEARSAL),
)
"""Rules about the tools themselves."""
TRIALS = (
    Rule(TOOL_CONFIG, _opens, _has_tools, stage=Stage.REHEARSAL),
    Rule(TOOL_CONFIG, _has_no_state, _has_tools, stage=Stage.REHEARSAL, warns=True),
)
"""Rules about their states for some rows; they follow those of the data."""
