"""Files as layers of changes (overlayfs): to freeze them is to put a new, empty layer on top."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from verl_atpo.tools.workspace.files import PARTS, Files, Frozen, Mount
from verl_atpo.tools.workspace.store import Store
from verl_atpo.tools.workspace.trees import Entry, Target, Usage, measure, walk, write_files

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
        for layer in reversed(changes):
            with Target(folder / part) as target:
                for entry in walk(layer.folder / part):
                    _apply(entry, target)
        store.hand_over(folder / part)
    return Layer(store, folder, template, sum((measure(folder / part) for part in PARTS), Usage()))


def _apply(entry: Entry, target: Target) -> None:
    """Carry out one change of a layer on the merged one."""
    parent = target.parent_of(entry.path)
    try:
        there = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    if not entry.is_folder:
        if there is not None:
            target.remove(entry.name, parent)
        os.link(entry.name, entry.name, src_dir_fd=entry.parent, dst_dir_fd=parent, follow_symlinks=False)
        return
    hides = _is_opaque(entry)
    if there is not None and (hides or not stat.S_ISDIR(there.st_mode)):
        hides = True  # also of a removed folder that was made again: what is below stays hidden
        target.remove(entry.name, parent)
        there = None
    if there is None:
        os.mkdir(entry.name, 0o700, dir_fd=parent)
    descriptor = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if hides:
            os.setxattr(descriptor, OPAQUE, b"y")
        os.fchmod(descriptor, stat.S_IMODE(entry.info.st_mode) | stat.S_IRWXU)
    finally:
        os.close(descriptor)


def _is_opaque(entry: Entry) -> bool:
    descriptor = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.parent)
    try:
        return os.getxattr(descriptor, OPAQUE) == b"y"
    except OSError:
        return False
    finally:
        os.close(descriptor)
