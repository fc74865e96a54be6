"""Contract of a provider of workspaces: folders in which commands run, and which can be forked."""

from __future__ import annotations

import abc
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Completed:
    """A command that has ended.

    Attributes:
        output: standard output and standard error, in order; of a long output begin and end.
        exit_code: its exit code as a shell reports it (128 + number for a signal); None if it was stopped.
        stopped: why it was stopped, a sentence for the model; None if it ended by itself.
    """

    output: bytes
    exit_code: int | None
    stopped: str | None = None

    @property
    def text(self) -> str:
        """The output as text; bytes that are no UTF-8 become U+FFFD."""
        return self.output.decode("utf-8", "replace")


class WorkspaceError(Exception):
    """A request that a workspace refuses; the message is for the model."""


class Workspace(abc.ABC):
    """A folder of one trajectory, in which commands run one at a time. An object of one thread at a time.

    A provider writes :meth:`run`, :meth:`snapshot` and :meth:`close`; the other methods are built on these.

    Attributes:
        path: the folder as programs outside the isolation see it; None where they cannot.
    """

    path: Path | None = None

    @abc.abstractmethod
    def run(
        self,
        command: str,
        stdin: bytes = b"",
        *,
        wall_s: float | None = None,
        output_bytes: int | None = None,
    ) -> Completed:
        """Run a command of the shell in the folder, and wait until every process that it started has ended.

        Args:
            command: a line or a script of bash.
            stdin: its standard input.
            wall_s: seconds that it may take; the provider's limit where that is less, or where None.
            output_bytes: most bytes of output to return; None for the provider's limit.

        Returns:
            How it ended. A command that fails, is stopped or cannot be found is an answer, not an error.

        Raises:
            ToolOutage: the provider failed; the command may have been carried out in part.
            WorkspaceError: the workspace is closed.
        """

    @abc.abstractmethod
    def snapshot(self) -> Any:
        """Fix the state of the files, between two commands.

        Returns:
            An object for :meth:`Provider.restore`, which later commands of any workspace do not change. What it
            holds is released once nothing refers to it.

        Raises:
            ToolOutage: the provider failed.
            WorkspaceError: the workspace is closed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Remove the folder and everything that runs in it; snapshots of it stay. Safe to call again."""

    def read(self, path: str, most_bytes: int = 1 << 20) -> bytes:
        """Read a file, with the rights of a command.

        Raises:
            WorkspaceError: it cannot be read, or is larger than ``most_bytes``.
            ToolOutage: the provider failed.
        """
        done = self.run(f"head -c {most_bytes + 1} -- {shlex.quote(_relative(path))}", output_bytes=most_bytes + 1000)
        if done.stopped is not None or done.exit_code != 0:
            raise WorkspaceError(_reason(path, done))
        if len(done.output) > most_bytes:
            raise WorkspaceError(f"{path}: the file has more than {most_bytes} bytes.")
        return done.output

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with the rights of a command; folders above it are made.

        Raises:
            WorkspaceError: it cannot be written.
            ToolOutage: the provider failed.
        """
        quoted = shlex.quote(_relative(path))
        done = self.run(f'mkdir -p -- "$(dirname -- {quoted})" && cat > {quoted}', stdin=content)
        if done.stopped is not None or done.exit_code != 0:
            raise WorkspaceError(_reason(path, done))

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Provider(abc.ABC):
    """Maker of workspaces; one object serves all trajectories of a worker, from many threads."""

    @abc.abstractmethod
    def create(self, template: str | None = None, files: Mapping[str, str] | None = None) -> Workspace:
        """Make a workspace.

        Args:
            template: initial content: for the local provider a folder, for others perhaps an image. Providers
                may read it once and keep a copy. None for nothing.
            files: text files by relative path, written over the template.

        Raises:
            WorkspaceError: an argument that cannot work; the message names it.
            ToolOutage: the provider failed.
        """

    @abc.abstractmethod
    def restore(self, snapshot: Any) -> Workspace:
        """Make a new workspace with the files of a snapshot; the same snapshot may be restored many times.

        Raises:
            ToolOutage: the provider failed.
        """

    def fork(self, workspace: Workspace) -> Workspace:
        """Make a workspace with the present files of another; neither sees the other's later changes."""
        return self.restore(workspace.snapshot())

    @abc.abstractmethod
    def close(self) -> None:
        """Remove every workspace and snapshot that is left. Safe to call again."""


def _relative(path: str) -> str:
    """Return a path that no program takes for an option."""
    if not path or "\0" in path:
        raise WorkspaceError(f"{path!r} is no path of a file.")
    return path if path.startswith("/") else f"./{path}"


def _reason(path: str, done: Completed) -> str:
    return done.stopped or done.text.strip() or f"{path}: exit code {done.exit_code}"
