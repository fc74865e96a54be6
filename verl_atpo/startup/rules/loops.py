"""Rules about the agent loop: its class, a second turn, and its tool-call format."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import ListConfig

from verl_atpo.settings import ConfigError, refuse
from verl_atpo.startup.rules.rule import Rule, Run, Stage, in_trees, with_own_sampler
from verl_atpo.startup.rules.tool_files import find_file, import_class, load_yaml
from verl_atpo.startup.verl_config import DEFAULT_LOOP, LOOPS, MULTI_TURN, unknown

SINGLE_TURN = "single_turn_agent"
TOOL_AGENT = "tool_agent"
REMEDY = (
    "a loop of one turn has no turns that could be sampled again; set "
    f"{DEFAULT_LOOP}=tool_agent (or your own loop), or use +atpo=chain"
)


def own_loops(run: Run) -> dict[str, str]:
    """Read the loops that the user's file defines: names and dotted classes.

    Raises:
        ConfigError: names file, entry and what is wrong.
    """
    path = run.get(LOOPS)
    if not path:
        return {}
    setting = f"{LOOPS}={path} cannot work"
    content = load_yaml(setting, find_file(LOOPS, path))
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{setting}: expected a list with an entry per agent loop.")
    for number, entry in enumerate(content, start=1):
        where = f"{setting}: loop {number}"
        if not isinstance(entry, Mapping) or not entry.get("name") or "." not in str(entry.get("_target_", "")):
            raise ConfigError(f"{where} needs `name` and `_target_: package.module.Class`.")
        import_class(f"{where} ({entry['_target_']})", entry["_target_"])
    return {str(entry["name"]): str(entry["_target_"]) for entry in content}


def _file(run: Run) -> None:
    own_loops(run)


def _known(run: Run) -> str | None:
    default, known = run.get(DEFAULT_LOOP), {SINGLE_TURN, TOOL_AGENT, *own_loops(run)}
    if default is None or default in known:
        return None
    return unknown(default, sorted(known), f", or another name that {LOOPS} defines")


def _single_turn(run: Run) -> str | None:
    """Refuse a single-turn loop if no row of the data names another loop."""
    if run.get(DEFAULT_LOOP) != SINGLE_TURN or not train_files(run) or rows_name_their_loop(run):
        return None
    return f"{REMEDY} (the data has no column agent_name)"


def _perhaps_single_turn(run: Run) -> str | None:
    """Warn of a single-turn loop with data elsewhere, whose loop names are checked only before the first prompt."""
    if run.get(DEFAULT_LOOP) != SINGLE_TURN or train_files(run):
        return None
    return f"unless every data row names its agent_name, {REMEDY}"


def _plain_tool_agent(run: Run) -> bool:
    return (
        run.grows_trees and run.get(DEFAULT_LOOP) == TOOL_AGENT and not own_loops(run) and not rows_name_their_loop(run)
    )


def _tools(run: Run) -> str | None:
    if any(run.get(f"{MULTI_TURN}.{name}") for name in ("tool_config_path", "function_tool_path")):
        return None
    return f"without tools it has one turn only; name them in {MULTI_TURN}.tool_config_path or function_tool_path"


def _format(run: Run) -> str | None:
    from verl.experimental.agent_loop.tool_parser import ToolParser

    value, known = run.get(f"{MULTI_TURN}.format"), sorted(ToolParser._registry)
    return None if value in (None, *known) else unknown(value, known)


def train_files(run: Run) -> list[Path]:
    """Return the parquet files of the training data that are on this machine."""
    files = run.get("data.train_files") or []
    names: Iterable[Any] = files if isinstance(files, ListConfig | list) else [files]
    return [path for name in names if (path := Path(str(name)).expanduser()).is_file() and path.suffix == ".parquet"]


def rows_name_their_loop(run: Run) -> bool:
    """Return whether the training data has a column ``agent_name``.

    Raises:
        ConfigError: a file that is no parquet.
    """
    import pyarrow.parquet

    files = train_files(run)
    try:
        return any("agent_name" in pyarrow.parquet.read_schema(path).names for path in files)
    except (OSError, pyarrow.ArrowException) as error:
        raise refuse("data.train_files", files[0], f"no readable parquet file: {error}"[:400]) from error


def _classes(run: Run) -> None:
    """Refuse own loops that do not derive from verl's class, or whose `run` is no coroutine function."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase

    path = run.get(LOOPS)
    for name, target in own_loops(run).items():
        found = import_class(f"{LOOPS}={path}", target)
        problem = None
        if not issubclass(found, AgentLoopBase):
            problem = f"{target} of the loop {name} is no agent loop. Derive it from verl's AgentLoopBase"
        elif not inspect.iscoroutinefunction(inspect.unwrap(found.run)):
            problem = f"{target}.run of the loop {name} is no coroutine function. Write `async def run`"
        if problem:
            raise refuse(LOOPS, path, problem)


RULES = (
    Rule(LOOPS, _file, with_own_sampler),
    Rule(DEFAULT_LOOP, _known, with_own_sampler),
    Rule(DEFAULT_LOOP, _single_turn, in_trees),
    Rule(DEFAULT_LOOP, _perhaps_single_turn, in_trees, warns=True),
    Rule(DEFAULT_LOOP, _tools, _plain_tool_agent),
    Rule(f"{MULTI_TURN}.format", _format, _plain_tool_agent),
)
CLASSES = Rule(LOOPS, _classes, lambda run: bool(run.get(LOOPS)), Stage.REHEARSAL)
"""Follows the rules of the model, because it imports the user's code."""
