"""Workspaces on this machine: folders on its disk, commands in the isolation that works here."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from verl_atpo.tools.workspace.config import Technique, WorkspaceConfig
from verl_atpo.tools.workspace.contract import Completed, Provider, Workspace, WorkspaceError
from verl_atpo.tools.workspace.copies import CopiedFiles, Copy, copy_tree
from verl_atpo.tools.workspace.files import PARTS, Files, Frozen
from verl_atpo.tools.workspace.overlay import Layer
from verl_atpo.tools.workspace.probe import find
from verl_atpo.tools.workspace.runner import run
from verl_atpo.tools.workspace.shell import make_program
from verl_atpo.tools.workspace.store import Store
from verl_atpo.tools.workspace.trees import Usage, measure


class LocalWorkspace(Workspace):
    """A folder of a :class:`LocalProvider`.

    Args:
        provider: its maker.
        files: on disk.
    """

    def __init__(self, provider: LocalProvider, files: Files) -> None:
        self._provider, self._files, self._closed = provider, files, False
        self._one_at_a_time = threading.Lock()
        workspace = files.mounts()[0]
        self.path = workspace.upper if workspace.work is None else None

    def run(
        self, command: str, stdin: bytes = b"", *, wall_s: float | None = None, output_bytes: int | None = None
    ) -> Completed:
        """Run a command; see :class:`Workspace`."""
        with self._one_at_a_time:
            self._check_open()
            return run(self._provider.jail, self._files, command, stdin, wall_s, output_bytes)

    def snapshot(self) -> Frozen:
        """Fix the state of the files; see :class:`Workspace`."""
        with self._one_at_a_time:
            self._check_open()
            return self._files.freeze()

    def program(self) -> Path:
        """Return a program that runs a command in the workspace, for agents in other processes.

        Raises:
            WorkspaceError: the files are layers, which other processes do not see.
        """
        if not isinstance(self._files, CopiedFiles):
            raise WorkspaceError("A workspace of layers has no program: set workspace.technique=copy.")
        return make_program(self._provider.jail, self._files.folder, self._files.template)

    def close(self) -> None:
        """Remove the folder; waits for a command that runs."""
        with self._one_at_a_time:
            if not self._closed:
                self._closed = True
                self._files.close()

    def _check_open(self) -> None:
        if self._closed:
            raise WorkspaceError("The workspace is closed.")


class LocalProvider(Provider):
    """Workspaces on this machine.

    Args:
        config: settings.

    Attributes:
        config: settings.
        jail: isolation of the commands.
        technique: way to keep the files.
        folder: holds all files.

    Raises:
        ConfigError: a setting that does not work on this machine.
    """

    def __init__(self, config: WorkspaceConfig | None = None) -> None:
        self.config = config or WorkspaceConfig()
        self._store = Store(self.config.folder)
        self.folder = self._store.root
        try:
            self.jail, self.technique = find(self.config, self._store)
        except BaseException:
            self._store.close()
            raise
        self._templates: dict[str | None, Frozen] = {}
        self._templates_lock = threading.Lock()

    def create(self, template: str | None = None, files: Mapping[str, str] | None = None) -> LocalWorkspace:
        """Make a workspace; see :class:`Provider`. A template is a folder, copied when it is first named."""
        with self._templates_lock:
            frozen = self._templates.get(template)
            if frozen is None:
                frozen = self._templates[template] = self._frozen(template)
        try:
            return LocalWorkspace(self, frozen.thaw({path: text.encode() for path, text in (files or {}).items()}))
        except ValueError as error:
            raise WorkspaceError(f"files: {error}.") from error

    def restore(self, snapshot: Frozen) -> LocalWorkspace:
        """Make a workspace of a snapshot; see :class:`Provider`."""
        return LocalWorkspace(self, snapshot.thaw())

    def close(self) -> None:
        """Remove all workspaces; see :class:`Provider`."""
        self._store.close()

    def _frozen(self, template: str | None) -> Frozen:
        """Read a template."""
        folder = self._store.new(*PARTS)
        if template is not None:
            if not os.path.isdir(template):
                raise WorkspaceError(f"template={template!r}: there is no such folder.")
            copy_tree(Path(template), folder / PARTS[0])
            self._store.hand_over(folder / PARTS[0])
        if self.technique is Technique.OVERLAY:
            return Layer(self._store, folder, None, Usage())
        return Copy(self._store, folder, measure(folder / PARTS[0]))
