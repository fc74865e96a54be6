"""Folder of a worker's workspaces on disk: locked while the worker lives, removed by the next one after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import queue
import secrets
import tempfile
import threading
import weakref
from pathlib import Path

from verl_atpo.settings import refuse
from verl_atpo.tools.workspace.trees import hand_over, remove

logger = logging.getLogger(__name__)

LOCK, MAKING = "lock", "."


class Store:
    """Folders of one provider, removed in the order in which they are given up, on a thread of its own.

    Args:
        parent: an existing folder that holds the stores of all workers; null is the system's for temporary files.

    Attributes:
        root: the store's own folder.
        owner: user that commands run as, if it is another than this process's.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, parent: str | None) -> None:
        self.owner: int | None = None
        base = Path(parent or tempfile.gettempdir())
        stores = base / f"atpo-{os.getuid()}"
        try:
            stores.mkdir(mode=0o700, exist_ok=True)
            _check_own(stores)
            sweep(stores)
            self.root = stores / secrets.token_hex(4)
            making = self.root.with_name(f"{MAKING}{self.root.name}")  # no store of another's to remove
            making.mkdir(mode=0o700)
            self._lock = _locked(making)
            making.rename(self.root)
        except OSError as error:
            why = (
                f"{error}. Expected an existing folder on a local disk in which this user may write, or null for "
                f"{tempfile.gettempdir()}"
            )
            raise refuse("workspace.folder", parent, why) from error
        self._numbers = itertools.count()
        self._pending: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._remover = threading.Thread(
            target=_remove_all, args=(self._pending,), name="verl_atpo_workspaces", daemon=True
        )
        self._remover.start()
        self._finalizer = weakref.finalize(self, _close, self.root, self._lock, self._pending, self._remover)

    def new(self, *names: str) -> Path:
        """Make a folder that holds empty folders; it has a short name."""
        folder = self.root / f"{next(self._numbers):x}"
        folder.mkdir(mode=0o700)
        for name in names:
            (folder / name).mkdir(mode=0o755)
            if self.owner is not None:
                os.chown(folder / name, self.owner, self.owner)
        return folder

    def hand_over(self, folder: Path) -> None:
        """Let commands own all that is in a folder."""
        if self.owner is not None:
            hand_over(folder, self.owner)

    def give_up(self, folder: Path) -> None:
        """Remove a folder, later."""
        self._pending.put(folder)

    def close(self) -> None:
        """Remove everything; safe to call again."""
        self._finalizer()


def sweep(stores: Path) -> None:
    """Remove the stores of workers that have ended without removing them."""
    for store in stores.iterdir():
        if store.name.startswith(MAKING):
            continue
        try:
            lock = _locked(store, create=False)
        except (FileNotFoundError, NotADirectoryError):
            continue  # just being made or removed
        except OSError:
            continue  # in use
        logger.warning("Workspaces that an earlier run left in %s are removed.", store)
        try:
            remove(store)
        except OSError as error:
            logger.warning("They cannot be removed: %s", error)
        finally:
            os.close(lock)


def _locked(store: Path, create: bool = True) -> int:
    """Lock a store as long as this process lives; returns the descriptor that holds the lock."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    descriptor = os.open(store / LOCK, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_own(folder: Path) -> None:
    """Refuse a folder that somebody else made at a name that can be guessed."""
    info = folder.lstat()
    if folder.is_symlink() or info.st_uid != os.getuid() or info.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another user, or others may write to it")


def _remove_all(pending: queue.SimpleQueue[Path | None]) -> None:
    while (folder := pending.get()) is not None:
        try:
            remove(folder)
        except OSError as error:
            logger.warning("A workspace's folder %s cannot be removed yet: %s", folder, error)


def _close(root: Path, lock: int, pending: queue.SimpleQueue[Path | None], remover: threading.Thread) -> None:
    pending.put(None)
    if remover is not threading.current_thread():
        remover.join()
    with contextlib.suppress(OSError):
        remove(root)
    os.close(lock)
