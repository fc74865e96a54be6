"""Rules about the tools: they can be made, and stateful ones open and close with rows of the data."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verl_atpo.failure import brief, is_outage
from verl_atpo.settings import ConfigError, refuse, show
from verl_atpo.startup.materials import tools, train_rows, validation_rows
from verl_atpo.startup.rules.data import row_fields
from verl_atpo.startup.rules.rule import Rule, Run, Stage
from verl_atpo.startup.rules.tool_files import FUNCTION_TOOLS, TOOL_CONFIG
from verl_atpo.startup.trial import Outcome, attempt

TRIAL_LIMIT_S = 5.0
"""Seconds that opening or closing one state may take here; a slower one is not checked."""
_IMMUTABLE = (int, float, complex, str, bytes, tuple, frozenset)
"""Types of states that no call can change."""


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
    method = next(iter(run.once(_opened).stateless), None)
    return method and (
        f"{method} returned None: a trajectory's state is what it returns, and all trajectories share what it keeps in "
        "self. Return the state"
    )


def _is_slow(run: Run) -> str | None:
    method = next(iter(run.once(_opened).slow), None)
    return method and f"{method} takes longer than {TRIAL_LIMIT_S:g} s, so that it was not checked"


def _shares_states(run: Run) -> str | None:
    """Warn of snapshots that are no copies: calls of one trajectory would change the state of another."""
    method = next(iter(run.once(_opened).shared), None)
    return method and (
        f"{method}, so that calls of one trajectory change the state of another. Return a copy from both snapshot and "
        "restore, unless no call changes a state"
    )


@dataclasses.dataclass
class _Found:
    """Methods of stateful tools that failed a trial without an error.

    Attributes:
        stateless: that returned no state.
        slow: that took longer than the time limit; their tool was not tried again.
        shared: that returned a state which another trajectory has, and what it is.
    """

    stateless: list[str] = dataclasses.field(default_factory=list)
    slow: list[str] = dataclasses.field(default_factory=list)
    shared: list[str] = dataclasses.field(default_factory=list)


def _opened(run: Run) -> _Found:
    """Open and close a state of each tool, and restore one from a snapshot."""
    from verl_atpo.tools.row import create_kwargs
    from verl_atpo.tools.stateful import StatefulTool, names_in_rows, owner_of

    found, restored = _Found(), set()
    for name, row in _rows(run):
        opened = set()
        for tool in run.once(tools):
            owner = owner_of(tool)
            if isinstance(owner, StatefulTool) and owner not in opened and _offers(row, tool) and not found.slow:
                opened.add(owner)
                kwargs = create_kwargs(row.get("tools_kwargs"), names_in_rows(tool))
                _open_and_close(owner, kwargs, name, found, branches=owner not in restored)
                restored.add(owner)
    return found


def _offers(row: Mapping[str, Any], tool: Any) -> bool:
    """Return whether a row offers a tool to the model."""
    selection = (row.get("extra_info") or {}).get("tool_selection")
    return selection is None or not len(selection) or tool.name in selection


def _open_and_close(tool: Any, kwargs: Mapping[str, Any], name: str, found: _Found, branches: bool) -> None:
    """Open a state, restore copies of it where ``branches`` says so, and close them all."""
    from verl_atpo.tools.contract import Branching, branching_of

    def tried(method: str, *args: Any, **given: Any) -> Outcome:
        outcome = attempt(lambda: getattr(tool, method)(*args, **given), TRIAL_LIMIT_S)
        _refuse_error(tool, method, name, kwargs, outcome.raised)
        if outcome.late:
            found.slow.append(f"{type(tool).__qualname__}.{method} of the tool {tool.name!r}")
        return outcome

    opened = tried("open", **kwargs)
    if opened.raised is not None or opened.late:
        return
    if opened.returned is None:
        found.stateless.append(f"{type(tool).__qualname__}.open of the tool {tool.name!r}")
    states = [opened.returned]
    if branches and opened.returned is not None and branching_of(tool) is Branching.FORK:
        copied = tried("snapshot", opened.returned)
        while copied.raised is None and not copied.late and len(states) < 3:
            restored = tried("restore", copied.returned)
            if restored.raised is not None or restored.late:
                break
            states.append(restored.returned)
        if shared := _shared(states):
            found.shared.append(f"{type(tool).__qualname__} of the tool {tool.name!r} {shared}")
    for state in states:
        tried("close", state)


def _shared(states: Sequence[Any]) -> str | None:
    """Say which of an opened state and those restored from its snapshot are one object that calls may change."""
    mutable = [state for state in states if not isinstance(state, _IMMUTABLE)]
    if len({id(state) for state in mutable}) == len(mutable):
        return None
    if any(state is states[0] for state in states[1:]):
        return "restores the very state that the snapshot was taken of"
    return "restores the same object from a snapshot every time"


def _refuse_error(tool: Any, method: str, name: str, kwargs: Mapping[str, Any], raised: BaseException | None) -> None:
    if raised is None or is_outage(raised):
        return
    wanted = inspect.signature(tool.open)
    raise ConfigError(
        f"{type(tool).__qualname__}.{method} of the tool {tool.name!r} cannot work with {name}: it raised "
        f"{brief(raised)}. The row's extra_info.tools_kwargs gave create_kwargs={show(kwargs)} for open{wanted}. "
        "Correct the tool, or the data's extra_info.tools_kwargs."
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
    Rule(TOOL_CONFIG, _is_slow, _has_tools, stage=Stage.REHEARSAL, warns=True),
    Rule(TOOL_CONFIG, _shares_states, _has_tools, stage=Stage.REHEARSAL, warns=True),
)
"""Rules about their states for some rows; they follow those of the data."""
