"""Files as layers of changes (overlayfs): to freeze them is to put a new, empty layer on top."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from verl_atpo.tools.workspace.files import PARTS, Files, Frozen, Mount
from verl_atpo.tools.workspace.store import Store
from verl_atpo.tools.workspace.trees import FOLDER, Entry, Target, Usage, measure, walk, write_files

MOST_LAYERS = 32
"""Layers of a workspace before they are merged; all their paths have to fit one page of the kernel's."""
OPAQUE = "user.overlay.opaque"
"""Extended attribute of a folder that hides the folder of the same name in lower layers."""
WORK = "w"


class Layer(Frozen):
    """Changes to a lower layer, which nothing changes any more.

    Args:
        store: takes the folder back when nothing refers to the layer.
        folder: holds :data:`PARTS`.
        lower: the layer below, or None.
        added: size of this layer; nothing for a template, which does not count.
    """

    def __init__(self, store: Store, folder: Path, lower: Layer | None, added: Usage) -> None:
        self.store, self.folder, self.lower = store, folder, lower
        self.added: Usage = added if lower is None else added + lower.added
        weakref.finalize(self, store.give_up, folder)

    def stack(self) -> list[Layer]:
        """List the layers from this one down to the template."""
        return list(_down(self))

    def thaw(self, files: Mapping[str, bytes] | None = None) -> OverlayFiles:
        """Put an empty layer on top of this one."""
        if not files:
            return OverlayFiles(self.store, self)
        folder = self.store.new(*PARTS)
        write_files(folder / PARTS[0], files)
        self.store.hand_over(folder / PARTS[0])
        return OverlayFiles(self.store, Layer(self.store, folder, self, Usage()))


def _down(layer: Layer | None) -> Iterator[Layer]:
    while layer is not None:
        yield layer
        layer = layer.lower


class OverlayFiles(Files):
    """A stack of layers, the uppermost of which takes what is written.

    Args:
        store: makes the folders.
        lower: the stack.
    """

    def __init__(self, store: Store, lower: Layer) -> None:
        self._store, self._lower = store, lower
        self._new_upper()

    def _new_upper(self) -> None:
        self._upper = self._store.new(*PARTS, *(f"{WORK}{part}" for part in PARTS))

    def mounts(self) -> tuple[Mount, ...]:
        """Return the stack of each part."""
        stack = list(reversed(self._lower.stack()))
        return tuple(
            Mount(tuple(layer.folder / part for layer in stack), self._upper / part, self._upper / f"{WORK}{part}")
            for part in PARTS
        )

    def freeze(self) -> Layer:
        """Turn what was written into a layer of its own; nothing if nothing was."""
        changed = sum((measure(self._upper / part) for part in PARTS), Usage())
        if changed.files:
            self._lower = Layer(self._store, self._upper, self._lower, changed)
            self._new_upper()
            if len(stack := self._lower.stack()) > MOST_LAYERS:
                self._lower = merged(self._store, stack)
        return self._lower

    def added(self, most: Usage | None = None) -> Usage:
        """Measure all layers above the template."""
        total = self._lower.added
        for part in PARTS:
            total += measure(self._upper / part, most)
        return total

    def close(self) -> None:
        """Give up the uppermost layer."""
        self._store.give_up(self._upper)


def merged(store: Store, stack: list[Layer]) -> Layer:
    """Merge layers into one above the lowest; files become further names of the same files, so nothing is copied.

    Args:
        store: makes the folder.
        stack: from the uppermost layer to the template.
    """
    *changes, template = stack
    folder = store.new(*PARTS)
    for part in PARTS:
        with Target(folder / part) as target, Target(template.folder / part) as below:
            merge = _Merge(target, below)
            for layer in reversed(changes):
                for entry in walk(layer.folder / part):
                    merge.apply(entry)
        store.hand_over(folder / part)
    return Layer(store, folder, template, sum((measure(folder / part) for part in PARTS), Usage()))


class _Merge:
    """Changes of several layers as one layer, applied from the lowest up.

    A mark of a removed file may stand only where the template has the file and shows it: the kernel lists a folder
    that hides nothing as it is, marks included.

    Args:
        target: the merged layer.
        below: the template.
    """

    def __init__(self, target: Target, below: Target) -> None:
        self._target, self._below = target, below
        self._opaque: set[str] = set()

    def apply(self, entry: Entry) -> None:
        """Carry out one change of a layer."""
        parent = self._target.parent_of(entry.path)
        try:
            there = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        hides = entry.is_folder and _is_opaque(entry)
        if there is not None and not (entry.is_folder and stat.S_ISDIR(there.st_mode) and not hides):
            hides = entry.is_folder  # also of a removed folder that was made again: what is below stays hidden
            self._target.remove(entry.name, parent)
            self._opaque = {path for path in self._opaque if not f"{path}/".startswith(f"{entry.path}/")}
            there = None
        if entry.is_folder:
            self._make(entry, parent, there is None, hides)
        elif not _is_mark(entry) or (not self._hidden(entry.path) and self._below.has(entry.path)):
            os.link(entry.name, entry.name, src_dir_fd=entry.parent, dst_dir_fd=parent, follow_symlinks=False)

    def _hidden(self, path: str) -> bool:
        """Return whether a folder above hides the template's."""
        return any(f"{path}/".startswith(f"{opaque}/") for opaque in self._opaque)

    def _make(self, entry: Entry, parent: int, new: bool, hides: bool) -> None:
        if new:
            os.mkdir(entry.name, 0o700, dir_fd=parent)
        descriptor = os.open(entry.name, FOLDER, dir_fd=parent)
        try:
            if hides:
                os.setxattr(descriptor, OPAQUE, b"y")
                self._opaque.add(entry.path)
            os.fchmod(descriptor, stat.S_IMODE(entry.info.st_mode) | stat.S_IRWXU)
        finally:
            os.close(descriptor)


def _is_mark(entry: Entry) -> bool:
    """Return whether it marks a removed file."""
    return stat.S_ISCHR(entry.info.st_mode) and entry.info.st_rdev == 0


def _is_opaque(entry: Entry) -> bool:
    descriptor = os.open(entry.name, FOLDER, dir_fd=entry.parent)
    try:
        return os.getxattr(descriptor, OPAQUE) == b"y"
    except OSError:
        return False
    finally:
        os.close(descriptor)
