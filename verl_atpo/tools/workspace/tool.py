"""The workspace as a tool: a shell and files for coding agents, one folder per trajectory, forked by trees.

Setting: ``actor_rollout_ref.rollout.multi_turn.tool_config_path=.../verl_atpo/tools/workspace.yaml``.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
from typing import Any

from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_atpo.settings import ConfigError, read
from verl_atpo.tools.row import without_nulls
from verl_atpo.tools.stateful import StatefulTool, action
from verl_atpo.tools.text import neutralise
from verl_atpo.tools.workspace.config import WorkspaceConfig
from verl_atpo.tools.workspace.contract import Completed, Provider, Workspace, WorkspaceError
from verl_atpo.tools.workspace.local import LocalProvider

NO_OUTPUT = "(no output)"
PROVIDER, ARGUMENTS = "provider", "provider_kwargs"


class WorkspaceTool(StatefulTool):
    """A folder per trajectory, with the functions ``bash``, ``read``, ``write`` and ``edit``.

    Args:
        config: settings of :class:`WorkspaceConfig`, and verl's ``type``; or ``provider``, a class of another kind of
            workspaces as ``package.module:Class``, with ``provider_kwargs``.
        tool_schema: refused; the actions' docstrings are the description.

    Raises:
        ConfigError: a setting that cannot work, or that does not work on this machine.
    """

    name = "workspace"

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        super().__init__(config, tool_schema)
        self.settings = self.read_settings(config)
        self.provider = provider_of(self.settings, config.get(PROVIDER), _sorted(config.get(ARGUMENTS)))

    @classmethod
    def read_settings(cls, config: dict[str, Any]) -> WorkspaceConfig:
        """Read the settings in a tool's ``config``; the start-up checks call it before any tool is made.

        Raises:
            ConfigError: a setting that cannot work.
        """
        others = ("type", PROVIDER, ARGUMENTS)
        return read(WorkspaceConfig, {key: value for key, value in config.items() if key not in others}, "workspace")

    def open(self, template: str | None = None, files: dict[str, str] | None = None) -> Workspace:  # type: ignore[override]
        """Make the folder of a trajectory; both arguments are a data row's.

        Args:
            template: a folder that it begins with.
            files: text files by relative path, written over it.
        """
        return self.provider.create(template, without_nulls(files))

    @action
    def bash(self, workspace: Workspace, command: str) -> str:
        """Runs a command of bash in the workspace and returns what it prints. Files stay, processes do not.

        Args:
            command: The command.
        """
        return _answer(lambda: shown(workspace.run(_text("command", command))))

    @action
    def read(self, workspace: Workspace, path: str, first_line: int = 1) -> str:
        """Returns the text of a file.

        Args:
            path: The file, relative to the workspace.
            first_line: The line to begin with.
        """
        return _answer(lambda: self._read(workspace, _text("path", path), first_line))

    @action
    def write(self, workspace: Workspace, path: str, content: str) -> str:
        """Writes a file; folders above it are made.

        Args:
            path: The file, relative to the workspace.
            content: All of its new text.
        """

        def written() -> str:
            data = _text("content", content).encode("utf-8", "replace")
            self._check_size(path, len(data))
            workspace.write(_text("path", path), data)
            return f"Wrote {len(data)} bytes to {path}."

        return _answer(written)

    @action
    def edit(self, workspace: Workspace, path: str, old: str, new: str) -> str:
        """Replaces a piece of text that occurs once in a file.

        Args:
            path: The file, relative to the workspace.
            old: The text to replace, with enough around it to occur only once.
            new: The text in its place.
        """

        def edited() -> str:
            data = workspace.read(_text("path", path), self.settings.file_bytes)
            before, after = (_text(*each).encode("utf-8", "replace") for each in (("old", old), ("new", new)))
            count = data.count(before) if before else 0
            if count != 1:
                raise WorkspaceError(f"{path}: the old text occurs {count} times; it has to occur once.")
            changed = data.replace(before, after)
            self._check_size(path, len(changed))
            workspace.write(path, changed)
            return f"Edited {path}."

        return _answer(edited)

    def snapshot(self, workspace: Workspace) -> Any:
        """Fix the files of a workspace; a tree calls it after each call of the model."""
        return workspace.snapshot()

    def restore(self, snapshot: Any) -> Workspace:
        """Make a workspace of a snapshot."""
        return self.provider.restore(snapshot)

    def close(self, workspace: Workspace) -> None:
        """Remove a workspace."""
        workspace.close()

    def _read(self, workspace: Workspace, path: str, first_line: int) -> str:
        if isinstance(first_line, bool) or not isinstance(first_line, int) or first_line < 1:
            raise WorkspaceError(f"first_line={first_line!r}: expected a number of at least 1.")
        lines = workspace.read(path, self.settings.file_bytes).decode("utf-8", "replace").splitlines(keepends=True)
        if first_line > max(len(lines), 1):
            raise WorkspaceError(f"{path} has {len(lines)} lines.")
        text, size = "", 0
        for number, line in enumerate(lines[first_line - 1 :], first_line):
            size += len(line.encode())
            if size > self.settings.output_bytes:
                text = neutralise(text or line[: self.settings.output_bytes]).rstrip("\n")
                return f"{text}\n[cut in line {number} of {len(lines)}]"
            text += line
        return neutralise(text) or "(empty file)"

    def _check_size(self, path: str, size: int) -> None:
        if size > self.settings.file_bytes:
            raise WorkspaceError(
                f"{path}: {size} bytes, and at most {self.settings.file_bytes} can be written at once."
            )


def shown(done: Completed) -> str:
    """Return what the model reads of a command that has ended."""
    parts = [neutralise(done.text.rstrip("\n"))]
    if done.stopped is not None:
        parts.append(f"[{done.stopped}]")
    elif done.exit_code != 0:
        parts.append(f"[exit code {done.exit_code}]")
    return "\n".join(part for part in parts if part) or NO_OUTPUT


@functools.lru_cache
def provider_of(settings: WorkspaceConfig, name: str | None = None, arguments: str = "{}") -> Provider:
    """Return this process's provider for some settings, made at the first call.

    Args:
        settings: settings of the local provider.
        name: another provider's class, as ``package.module:Class``.
        arguments: arguments of that class, as JSON.

    Raises:
        ConfigError: it cannot be made.
    """
    if name is None:
        provider: Provider = LocalProvider(settings)
    else:
        module, _, attribute = name.partition(":")
        try:
            provider = getattr(importlib.import_module(module), attribute)(**json.loads(arguments))
        except Exception as error:
            raise ConfigError(
                f"workspace.provider={name!r} cannot be made: {type(error).__name__}: {error}. Expected "
                "package.module:Class of a verl_atpo.tools.workspace.Provider that takes workspace.provider_kwargs."
            ) from error
    atexit.register(provider.close)
    return provider


def _sorted(arguments: Any) -> str:
    """Return arguments in one form, by which a provider is found again."""
    return json.dumps(arguments or {}, sort_keys=True)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise WorkspaceError(f"{name} has to be a string, got {type(value).__name__}.")
    return value


def _answer(action: Any) -> str:
    """Return the answer of an action; a refusal is one, too."""
    try:
        return action()
    except WorkspaceError as error:
        return neutralise(f"Error: {error}")
