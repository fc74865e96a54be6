"""Files of a workspace on disk, kept so that a snapshot costs what has changed: the interface of both ways."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from verl_atpo.tools.workspace.trees import Usage, walk

PARTS = ("f", "t")
"""Folders of a state: the workspace and its folder for temporary files; short, as the paths of layers are many."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """A folder as commands see it.

    Attributes:
        layers: folders on disk, the lowest first, that are read only; empty for a plain folder.
        upper: folder that takes what is written.
        work: the kernel's own folder beside ``upper``; None for a plain folder.
    """

    layers: tuple[Path, ...]
    upper: Path
    work: Path | None


class Frozen(abc.ABC):
    """Files that never change again. What they take on disk is given up when nothing refers to the object."""

    @abc.abstractmethod
    def thaw(self, files: Mapping[str, bytes] | None = None) -> Files:
        """Make files with the same contents that can be changed.

        Args:
            files: contents by relative path that are written over them, and belong to what the files begin with.

        Raises:
            ValueError: a path that leads elsewhere.
        """


class Mounted(abc.ABC):
    """Folders in which commands run.

    Attributes:
        before: additions to the template when the last command ended.
    """

    before: Usage = Usage()

    @abc.abstractmethod
    def mounts(self) -> tuple[Mount, ...]:
        """Return a mount for each of :data:`PARTS`."""

    @abc.abstractmethod
    def added(self, most: Usage | None = None) -> Usage:
        """Measure what has been added to the template; above ``most`` the count may stop early.

        Raises:
            TooDeep: folders are nested too deep.
        """

    def cut(self) -> None:
        """Remove folders that are nested too deep."""
        for mount in self.mounts():
            for _ in walk(mount.upper, cut=True):
                pass


class Files(Mounted):
    """Files of one workspace. No command may run while one of the methods does, except ``added``."""

    @abc.abstractmethod
    def freeze(self) -> Frozen:
        """Fix the present contents; the files can be changed further."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give up what they take on disk."""
