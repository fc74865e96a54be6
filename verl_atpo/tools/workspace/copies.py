"""Files as plain folders: to freeze them copies what has changed since the last time, to thaw them copies all.

Frozen files share unchanged contents as hard links. No command ever sees a frozen folder, and no file that a command
can open has a second name there, so that writing in place changes no snapshot.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path

from verl_atpo.tools.workspace.files import PARTS, Files, Frozen, Mount
from verl_atpo.tools.workspace.store import Store
from verl_atpo.tools.workspace.trees import Entry, Target, Usage, copy_file, measure, walk, write_files

CLOCK_S = 0.02
"""Resolution of the times of files, rounded up: one that changed this shortly ago may change again at the same time."""
Version = tuple[int, int, int, int, int]
"""Inode, mode, size, and times of change of contents and status."""
Versions = dict[str, Version | None]
"""By part and path; None for a file that may change without a trace, because it changed just now."""


class Copy(Frozen):
    """A folder that nothing changes any more.

    Args:
        store: takes the folder back when nothing refers to it.
        folder: holds :data:`PARTS`.
        template: size of what the files began with.
    """

    def __init__(self, store: Store, folder: Path, template: Usage) -> None:
        self.store, self.folder, self.template = store, folder, template
        weakref.finalize(self, store.give_up, folder)

    def thaw(self, files: Mapping[str, bytes] | None = None) -> CopiedFiles:
        """Copy the folder."""
        folder = self.store.new(*PARTS)
        _copied(self.folder, folder)
        template = self.template
        if files:
            write_files(folder / PARTS[0], files)
            template = _measured(folder)
        for part in PARTS:
            self.store.hand_over(folder / part)
        time.sleep(CLOCK_S)  # so that all versions of the new files are sure
        written = {f"{PARTS[0]}/{path}" for path in files or {}}
        versions = {name: version for name, version in versions_of(folder).items() if name not in written}
        return CopiedFiles(self.store, folder, self, versions, template)


class CopiedFiles(Files):
    """A folder of its own.

    Args:
        store: makes the folders.
        folder: holds :data:`PARTS`.
        frozen: the last frozen state.
        versions: versions of the files in ``folder`` that are equal to those in ``frozen``.
        template: size of what the files began with.

    Attributes:
        folder, template: as given.
    """

    def __init__(self, store: Store, folder: Path, frozen: Copy, versions: Versions, template: Usage) -> None:
        self.folder, self.template = folder, template
        self._store, self._frozen, self._versions = store, frozen, versions

    def mounts(self) -> tuple[Mount, ...]:
        """Return the folder of each part."""
        return tuple(Mount((), self.folder / part, None) for part in PARTS)

    def freeze(self) -> Copy:
        """Copy what has changed since the last time; nothing if nothing has."""
        present = versions_of(self.folder)
        unchanged = {name for name, version in present.items() if version and version == self._versions.get(name)}
        if len(unchanged) < len(present) or len(present) < len(self._versions):
            folder = self._store.new(*PARTS)
            _copied(self.folder, folder, self._frozen.folder, unchanged)
            self._frozen, self._versions = Copy(self._store, folder, self.template), present
        return self._frozen

    def added(self, most: Usage | None = None) -> Usage:
        """Measure the folder, without the size of the template."""
        return _measured(self.folder, None if most is None else most + self.template).without(self.template)

    def close(self) -> None:
        """Give up the folder."""
        self._store.give_up(self.folder)


def versions_of(folder: Path) -> Versions:
    """Return the versions of everything in a folder that holds :data:`PARTS`."""
    sure = time.time_ns() - int(CLOCK_S * 1e9)
    found: Versions = {}
    for part in PARTS:
        for entry in filter(_is_copied, walk(folder / part)):
            info = entry.info
            version = (info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            found[f"{part}/{entry.path}"] = version if info.st_ctime_ns < sure else None
    return found


def copy_tree(source: Path, folder: Path, frozen: Path | None = None, unchanged: Collection[str] = ()) -> None:
    """Copy all that is in a folder.

    Args:
        source: the folder.
        folder: an existing one that takes the copies.
        frozen: a frozen folder.
        unchanged: paths of files in ``source`` that ``frozen`` has with the same contents: they get a further name.
    """
    with contextlib.ExitStack() as opened:
        target = opened.enter_context(Target(folder))
        same = opened.enter_context(Target(frozen)) if frozen is not None else None
        for entry in filter(_is_copied, walk(source)):
            parent = target.parent_of(entry.path)
            if same is not None and not entry.is_folder and entry.path in unchanged:
                here = same.parent_of(entry.path)
                os.link(entry.name, entry.name, src_dir_fd=here, dst_dir_fd=parent, follow_symlinks=False)
            else:
                _copy(entry, parent)


def _copied(source: Path, folder: Path, frozen: Path | None = None, unchanged: Collection[str] = ()) -> None:
    """Copy both parts."""
    for part in PARTS:
        of_part = {name.removeprefix(f"{part}/") for name in unchanged if name.startswith(f"{part}/")}
        copy_tree(source / part, folder / part, frozen / part if frozen is not None else None, of_part)


def _measured(folder: Path, most: Usage | None = None) -> Usage:
    """Measure both parts."""
    return sum((measure(folder / part, most) for part in PARTS), Usage())


def _is_copied(entry: Entry) -> bool:
    """Return whether it is neither a socket nor a device."""
    return stat.S_IFMT(entry.info.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)


def _copy(entry: Entry, parent: int) -> None:
    """Copy a file, or a folder without its contents. A file of several names becomes several files."""
    mode = entry.info.st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(entry.name, stat.S_IMODE(mode) | stat.S_IRWXU, dir_fd=parent)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(entry.name, dir_fd=entry.parent), entry.name, dir_fd=parent)
    elif stat.S_ISREG(mode):
        copy_file(entry, parent, entry.name)
    else:
        os.mkfifo(entry.name, stat.S_IMODE(mode), dir_fd=parent)
