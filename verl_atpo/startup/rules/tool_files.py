"""Rules about the tool config files: the file itself, its entries, their classes and settings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_atpo.settings import ConfigError, did_you_mean, refuse, show
from verl_atpo.startup.rules.rule import Rule, Run, broken
from verl_atpo.startup.verl_config import MULTI_TURN

TOOL_CONFIG = f"{MULTI_TURN}.tool_config_path"
FUNCTION_TOOLS = f"{MULTI_TURN}.function_tool_path"


def _files(run: Run) -> None:
    for setting in (TOOL_CONFIG, FUNCTION_TOOLS):
        if path := run.get(setting):
            find_file(setting, path)


def _entries(run: Run) -> None:
    path = run.get(TOOL_CONFIG)
    setting = f"{TOOL_CONFIG}={path} cannot work"
    content = load_yaml(setting, find_file(TOOL_CONFIG, path))
    tools = content.get("tools") if isinstance(content, Mapping) else None
    if not isinstance(tools, list) or not tools:
        raise ConfigError(f"{setting}: expected a list `tools` with an entry per tool.")
    for number, tool in enumerate(tools, start=1):
        _check_entry(f"{setting}: tool {number}", tool)


def find_file(key: str, path: str) -> Path:
    """Find the file that a setting names, as verl will find it.

    Raises:
        ConfigError: there is no such file.
    """
    from verl.experimental.agent_loop.utils import resolve_config_path

    try:
        found = Path(resolve_config_path(str(path)))
    except FileNotFoundError:
        found = Path(path)
    if not found.is_file():
        raise refuse(key, path, f"no such file, seen from {Path.cwd()}; correct the path")
    return found


def load_yaml(setting: str, path: Path) -> Any:
    """Read a YAML file as plain containers, interpolations resolved.

    Args:
        setting: beginning of the message.
        path: the file.

    Raises:
        ConfigError: it cannot be read, or is no YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}: the file is no YAML: {_short(error)}") from error
    except (OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{setting}: the file cannot be read: {_short(error)}") from error


def _check_entry(where: str, tool: Any) -> None:
    if not isinstance(tool, Mapping) or "." not in str(tool.get("class_name", "")):
        raise ConfigError(f"{where} needs `class_name: package.module.Class`, got {show(tool)}.")
    where = f"{where} ({tool['class_name']})"
    settings = tool.get("config")
    if not isinstance(settings, Mapping) or settings.get("type") != "native":
        raise ConfigError(f"{where} needs `config: {{type: native}}`.")
    schema = tool.get("tool_schema")
    if schema is not None:
        function = schema.get("function") if isinstance(schema, Mapping) else None
        if not isinstance(function, Mapping) or not function.get("name"):
            raise ConfigError(f"{where} has a tool_schema without function.name; add it.")
        _check_schema(where, schema)
    from verl_atpo.tools.making import removed_tool

    if reason := removed_tool(tool["class_name"]):
        raise ConfigError(f"{where}: {reason}")
    kind = import_class(where, tool["class_name"])
    if read_settings := getattr(kind, "read_settings", None):
        try:
            read_settings(dict(settings))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def _check_schema(where: str, schema: Mapping[str, Any]) -> None:
    from pydantic import ValidationError
    from verl.tools.schemas import OpenAIFunctionToolSchema

    try:
        OpenAIFunctionToolSchema.model_validate(schema)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where} has a tool_schema without what verl needs: {place}: {first['msg']}.") from None


def import_class(where: str, name: str) -> Any:
    """Import the class with this dotted name.

    Raises:
        ConfigError: the module cannot be imported, or has no such class.
    """
    module_name, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except SystemExit as error:
        raise ConfigError(f"{where}: its module ends the process ({error}); leave sys.exit out of it.") from error
    except Exception as error:  # a module of the user's may raise anything
        raise ConfigError(
            f"{where}: its module cannot be imported: {type(error).__name__}: {_short(error)}. Is PYTHONPATH right?"
        ) from error
    if not isinstance(getattr(module, class_name, None), type):
        hint = did_you_mean(class_name, [name for name, value in vars(module).items() if isinstance(value, type)])
        raise ConfigError(f"{where}: {module_name} has no class {class_name}.{hint}")
    return getattr(module, class_name)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


RULES = (
    Rule(TOOL_CONFIG, _files),
    Rule(TOOL_CONFIG, _entries, lambda run: bool(run.get(TOOL_CONFIG))),
)


def check_tool_files(config: DictConfig) -> None:
    """Check the tools' files, and import the classes that they name; no tool is made.

    Raises:
        ConfigError: names file and entry, what is wrong and what to do.
    """
    for _, message in broken(RULES, Run(config)):
        raise ConfigError(message)
