"""Trees of files that untrusted programs made: walked, measured, copied and removed without following any link."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

DEEPEST = 100
"""Folders inside one another; a walk holds a file descriptor for each."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512
"""Unit in which the system counts the blocks of a file."""
_FICLONE = 0x40049409
_CHUNK = 1 << 22


class TooDeep(Exception):
    """Folders are nested more than :data:`DEEPEST` deep."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """Size of a tree.

    Attributes:
        bytes: on the disk; a sparse file counts with its blocks.
        files: files and folders in it.
    """

    bytes: int = 0
    files: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.bytes + other.bytes, self.files + other.files)

    def without(self, other: Usage) -> Usage:
        """Return what is more than in ``other``, never less than nothing."""
        return Usage(max(self.bytes - other.bytes, 0), max(self.files - other.files, 0))

    def at_least(self, other: Usage) -> Usage:
        """Return the larger of both in each figure."""
        return Usage(max(self.bytes, other.bytes), max(self.files, other.files))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or folder that a walk met.

    Attributes:
        parent: descriptor of the folder that holds it; open until the walk continues.
        name: in that folder.
        path: relative to where the walk began.
        info: its status, as of a link itself.
    """

    parent: int
    name: str
    path: str
    info: os.stat_result

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        return stat.S_ISDIR(self.info.st_mode)


def walk(folder: Path | str, cut: bool = False) -> Iterator[Entry]:
    """Yield everything in ``folder``, a folder before its contents; what vanishes meanwhile is left out.

    Args:
        folder: where to begin.
        cut: whether to remove folders that are nested too deep.

    Raises:
        TooDeep: folders are nested too deep.
    """
    with contextlib.ExitStack() as all_open:
        stack = [_opened(_open_folder(folder, None), "", all_open)]
        while stack:
            descriptor, prefix, entries, opened = stack[-1]
            found = next(entries, None)
            if found is None:
                opened.close()
                stack.pop()
                continue
            try:
                entry = Entry(descriptor, found.name, prefix + found.name, found.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            yield entry
            if entry.is_folder:
                if len(stack) >= DEEPEST:
                    if not cut:
                        raise TooDeep(f"folders are nested more than {DEEPEST} deep")
                    _remove_tree(entry.name, descriptor)
                    continue
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    below = _open_folder(entry.name, descriptor)
                    stack.append(_opened(below, f"{entry.path}/", all_open))


def measure(folder: Path | str, most: Usage | None = None) -> Usage:
    """Measure what is in ``folder``; above ``most`` the count may stop early.

    Raises:
        TooDeep: folders are nested too deep.
    """
    total_bytes = files = 0
    for entry in walk(folder):
        files += 1
        if not entry.is_folder:  # a file of several names counts once for each part of it
            total_bytes += entry.info.st_blocks * _BLOCK // max(entry.info.st_nlink, 1)
        if most is not None and (files > most.files or total_bytes > most.bytes):
            break
    return Usage(total_bytes, files)


class Target:
    """A tree that is being made like another: finds the folder that belongs to an entry of a walk.

    Args:
        folder: an existing folder that no untrusted program can reach.
    """

    def __init__(self, folder: Path | str) -> None:
        self._top = _open_folder(folder, None)
        self._at: tuple[str, int] = ("", os.dup(self._top))

    def parent_of(self, path: str, make: bool = False) -> int:
        """Return a descriptor of the folder for the copy of ``path``, open until the next call.

        Args:
            path: relative to the target.
            make: whether to make the folders above it that are not there.
        """
        path = path.rpartition("/")[0]
        if path != self._at[0]:
            here = os.dup(self._top)
            try:
                for name in path.split("/") if path else ():
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, 0o755, dir_fd=here)
                    above, here = here, _open_folder(name, here)
                    os.close(above)
            except BaseException:
                os.close(here)
                raise
            os.close(self._at[1])
            self._at = (path, here)
        return self._at[1]

    def has(self, path: str) -> bool:
        """Return whether there is something at ``path``, reached without following a link."""
        try:
            os.stat(path.rpartition("/")[2], dir_fd=self.parent_of(path), follow_symlinks=False)
        except OSError:
            return False
        return True

    def remove(self, name: str, parent: int) -> None:
        """Remove a file or a tree."""
        if not _unlinked(name, parent):
            _remove_tree(name, parent)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._at[1])
        os.close(self._top)


def copy_file(source: Entry, target: int, name: str) -> None:
    """Copy a regular file with its mode and times, as a reflink where the file system can.

    Args:
        source: the file.
        target: descriptor of the folder that the copy is made in.
        name: name of the copy.

    Raises:
        OSError: it cannot be read or written, or is no regular file any more.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        reader = os.open(source.name, flags, dir_fd=source.parent)
    except PermissionError:  # a mode that locks out its owner
        _grant(source.name, source.parent, stat.S_IRUSR)
        reader = os.open(source.name, flags, dir_fd=source.parent)
    try:
        info = source.info
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            _copy_content(reader, writer, os.fstat(reader).st_size)
            os.fchmod(writer, stat.S_IMODE(info.st_mode))
            os.utime(writer, ns=(info.st_atime_ns, info.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def write_files(folder: Path | str, files: Mapping[str, bytes]) -> None:
    """Write files by relative path into ``folder``, over those that are there.

    Raises:
        ValueError: a path that leads out of the folder, or through a link.
    """
    with Target(folder) as target:
        for path, content in files.items():
            parts = path.split("/")
            if not path or "\0" in path or {"", ".", ".."} & set(parts):
                raise ValueError(f"{path!r} is no relative path of a file")
            try:
                parent = target.parent_of(path, make=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(parts[-1], flags, 0o644, dir_fd=parent)
            except OSError as error:
                raise ValueError(f"{path!r} cannot be written: {error}") from error
            with open(descriptor, "wb") as file:
                file.write(content)


def hand_over(folder: Path | str, owner: int) -> None:
    """Make ``owner`` the user and group of a folder and of all that is in it; links are not followed."""
    os.chown(folder, owner, owner, follow_symlinks=False)
    for entry in walk(folder):
        if entry.info.st_uid != owner or entry.info.st_gid != owner:
            with contextlib.suppress(FileNotFoundError):
                os.chown(entry.name, owner, owner, dir_fd=entry.parent, follow_symlinks=False)


def remove(folder: Path | str) -> None:
    """Remove a tree of any depth, whatever its modes; nothing that is there no longer is missed.

    Folders inside are first moved to the top, so that no path gets long and no descriptor is held for each level.
    """
    with contextlib.suppress(FileNotFoundError):
        _remove_tree(folder, None)


def _remove_tree(name: Path | str, parent: int | None) -> None:
    descriptor = _open_folder(name, parent)
    try:
        _empty(descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> None:
    moved = 0
    pending = [name for name in os.listdir(top) if not _unlinked(name, top)]
    while pending:
        name = pending.pop()
        descriptor = _open_folder(name, top)
        try:
            for inner in os.listdir(descriptor):
                if not _unlinked(inner, descriptor):
                    _grant(inner, descriptor, stat.S_IRWXU)  # moving a folder changes its entry ..
                    moved += 1
                    new = f"{name[:1]}.{os.getpid()}.{moved}.removed"
                    os.rename(inner, new, src_dir_fd=descriptor, dst_dir_fd=top)
                    pending.append(new)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=top)


def _unlinked(name: str, parent: int) -> bool:
    """Unlink what is no folder; returns whether it was none."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        return False
    return True


def _opened(
    descriptor: int, prefix: str, all_open: contextlib.ExitStack
) -> tuple[int, str, Iterator[os.DirEntry[str]], contextlib.ExitStack]:
    """Return a folder of the walk; its stack closes what was opened for it."""
    opened = all_open.enter_context(contextlib.ExitStack())
    opened.callback(os.close, descriptor)
    return descriptor, prefix, opened.enter_context(os.scandir(descriptor)), opened


def _open_folder(name: Path | str, parent: int | None) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    except PermissionError:  # a mode that locks out its owner
        _grant(name, parent, stat.S_IRWXU)
        return os.open(name, FOLDER, dir_fd=parent)


def _grant(name: Path | str, parent: int | None, mode: int) -> None:
    """Give the owner rights on a file, and on nothing that a link in its place points to."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        held = os.fstat(descriptor).st_mode
        if not stat.S_ISLNK(held) and held & mode != mode:
            os.chmod(f"/proc/self/fd/{descriptor}", stat.S_IMODE(held) | mode)
    finally:
        os.close(descriptor)


def _copy_content(reader: int, writer: int, size: int) -> None:
    """Copy all data and no hole."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(writer, _FICLONE, reader)
        return
    position = 0
    while position < size:
        try:
            position = os.lseek(reader, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            raise
        end = os.lseek(reader, position, os.SEEK_HOLE)
        os.lseek(reader, position, os.SEEK_SET)
        os.lseek(writer, position, os.SEEK_SET)
        while position < end:
            sent = os.sendfile(writer, reader, None, min(_CHUNK, end - position))
            if sent == 0:  # cut meanwhile
                return
            position += sent
    os.ftruncate(writer, size)
