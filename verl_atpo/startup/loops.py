"""Start-up checks of the agent loop: is it known, can it take a second turn, does verl know how it calls tools?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from verl_atpo.settings import ConfigError
from verl_atpo.startup.tool_files import find_file, import_class, load_yaml
from verl_atpo.startup.verl_config import AGENT, MULTI_TURN, get, refuse, refuse_unknown

logger = logging.getLogger(__name__)

SINGLE_TURN = "single_turn_agent"
TOOL_AGENT = "tool_agent"
LOOPS = f"{AGENT}.agent_loop_config_path"
DEFAULT = f"{AGENT}.default_agent_loop"
REMEDY = (
    f"a loop of one turn has no turns to branch at; set {DEFAULT}=tool_agent (or your own loop), or use +atpo=chain"
)


def check_loops(config: DictConfig) -> None:
    """Check the default agent loop, and the file that names loops of the user's own.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    own = _own_loops(config)
    default = get(config, DEFAULT)
    known = {SINGLE_TURN, TOOL_AGENT, *own}
    if default is not None and default not in known:
        refuse_unknown(DEFAULT, default, sorted(known), f", or another name that {LOOPS} defines")
    if _rows_name_their_loop(config):
        return
    if default == SINGLE_TURN:
        if not _train_files(config):  # what the rows name is then seen before the first prompt
            logger.warning("%s=%s: unless every data row names its agent_name, %s.", DEFAULT, default, REMEDY)
            return
        refuse(DEFAULT, default, f"{REMEDY} (the data has no column agent_name)")
    if default == TOOL_AGENT and not own:
        _check_tool_agent(config)


def check_agent_names(names: set[str]) -> None:
    """Refuse loops that have one turn only, where there is nothing to branch.

    Args:
        names: the agent loops that a batch of prompts asks for.

    Raises:
        ConfigError: one of them is verl's single-turn loop.
    """
    if SINGLE_TURN in names:
        refuse(DEFAULT, SINGLE_TURN, REMEDY)


def _check_tool_agent(config: DictConfig) -> None:
    from verl.experimental.agent_loop.tool_parser import ToolParser

    if not any(get(config, f"{MULTI_TURN}.{name}") for name in ("tool_config_path", "function_tool_path")):
        refuse(
            DEFAULT,
            TOOL_AGENT,
            f"without tools it has one turn only; name them in {MULTI_TURN}.tool_config_path or function_tool_path",
        )
    known = sorted(ToolParser._registry)
    if (format := get(config, f"{MULTI_TURN}.format")) not in (None, *known):
        refuse_unknown(f"{MULTI_TURN}.format", format, known)


def _own_loops(config: DictConfig) -> set[str]:
    """Names of the loops in the user's file."""
    path = get(config, LOOPS)
    if not path:
        return set()
    setting = f"{LOOPS}={path} cannot work"
    content = load_yaml(setting, find_file(LOOPS, path))
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{setting}: expected a list with an entry per agent loop, each `name` and `_target_`.")
    for number, entry in enumerate(content, start=1):
        where = f"{setting}: loop {number}"
        if not isinstance(entry, Mapping) or not entry.get("name") or "." not in str(entry.get("_target_", "")):
            raise ConfigError(f"{where} needs `name` and `_target_: package.module.Class`.")
        import_class(f"{where} ({entry['_target_']})", entry["_target_"])
    return {str(entry["name"]) for entry in content}


def _train_files(config: DictConfig) -> list[Path]:
    """The parquet files of the training data that are on this machine."""
    files = get(config, "data.train_files") or []
    names: Iterable[Any] = files if isinstance(files, ListConfig | list) else [files]
    return [path for name in names if (path := Path(str(name)).expanduser()).is_file() and path.suffix == ".parquet"]


def _rows_name_their_loop(config: DictConfig) -> bool:
    import pyarrow.parquet

    files = _train_files(config)
    try:
        return any("agent_name" in pyarrow.parquet.read_schema(path).names for path in files)
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(
            f"data.train_files={files[0]} cannot work: no readable parquet file: {error}"[:500]
        ) from error
