"""A control group that measures memory, the kernel's included, where this machine lets one be made."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryGroup:
    """The group in ``folder``, of the first or second version of control groups."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes")
        if not (folder / names[0]).exists():
            names = ("memory.current", "memory.peak")
        self._now, self._most = (folder / name for name in names)
        self.bytes(), self.most_bytes()

    def add(self, pid: int) -> None:
        """Count what the process takes from now on."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def bytes(self) -> int:
        """Bytes held at the moment."""
        return int(self._now.read_text())

    def most_bytes(self) -> int:
        """Most bytes held at any moment."""
        return int(self._most.read_text())


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A new group, gone at the end; skips the test where none can be made."""
    root = V1 if V1.is_dir() else V2
    folder = root / f"verl_atpo_test_{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of memory can be made here: {error}")
    try:
        try:
            group = MemoryGroup(folder)
        except OSError as error:
            pytest.skip(f"control groups here do not count memory: {error}")
        yield group
    finally:
        _remove(folder)


def _remove(folder: Path, tries: int = 100) -> None:
    """The kernel lets go of a group a moment after its last process."""
    for _ in range(tries):
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.02)
    folder.rmdir()
