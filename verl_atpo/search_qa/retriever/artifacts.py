"""Folders that are built once and reused: either complete or absent, and rebuilt when their inputs change.

A folder's record holds a checksum of each of its files, so that a truncated or changed file is detected before and
during its use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock

logger = logging.getLogger(__name__)

RECORD = "fingerprint.json"
_READ_BYTES = 1 << 22
_LITTLE_BYTES = 1 << 20
"""Free bytes below which a failed write counts as a full disk."""


class ReadOnlyError(OSError):
    """The index does not exist, and none can be built."""


class DiskFullError(OSError):
    """The disk has no space left for an index."""


class DamagedError(RuntimeError):
    """A file has changed; the message names it, and the remedy."""


@dataclasses.dataclass(frozen=True)
class Content:
    """Size and checksum of a file.

    Attributes:
        bytes: its size.
        xxh3: its checksum, 128 bits in hexadecimal. It detects damage, not forgery.
    """

    bytes: int
    xxh3: str


def content_of(file: int | Path) -> Content:
    """Compute size and checksum of a file, given by its path or by an open descriptor at any position.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return content_of(opened.fileno())
    checksum, size = xxhash.xxh3_128(), 0
    while data := os.pread(file, _READ_BYTES, size):
        checksum.update(data)
        size += len(data)
    return Content(size, checksum.hexdigest())


class ServedFile:
    """A file that is mapped into memory or read in parts, and so must not change.

    Args:
        path: the file.
        content: its expected size and checksum.
        remedy: remedy in the error message.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, content: Content, remedy: str) -> None:
        self.path = path
        self._content = content
        self._remedy = remedy
        self._file = path.open("rb")  # stays the same file even if the path is replaced
        self._seen = self._state()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Check whether the file has changed; read all of it if its times or size have.

        Raises:
            DamagedError: its content differs.
        """
        with self._lock:
            state = self._state()
            if state == self._seen:
                return
            if content_of(self._file.fileno()) != self._content:
                raise DamagedError(f"{self.path} was changed while it was served. Stop the server; {self._remedy}")
            self._seen = state  # touched, linked or renamed

    def _state(self) -> tuple[int, int, int]:
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def noted(path: Path, note: Path) -> ServedFile:
    """Open a file that was made elsewhere: its checksum is recorded when it is first served, and compared later.

    Args:
        path: the file.
        note: file of the record.

    Raises:
        DamagedError: its content differs from the record.
        OSError: it cannot be read.
    """
    content = content_of(path)
    now = {"file": str(path.resolve()), **dataclasses.asdict(content)}
    try:
        before = json.loads(note.read_bytes())
    except (OSError, ValueError):
        before = None
    if isinstance(before, dict) and before.get("file") == now["file"] and before != now:
        raise DamagedError(
            f"{path} is not what it was when it was first served ({now['bytes']} bytes with checksum {now['xxh3']}, "
            f"then {before.get('bytes')} with {before.get('xxh3')}): fetch it again, or remove {note} if it was "
            "replaced on purpose."
        )
    if before != now:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps(now), encoding="utf-8")
        except OSError as error:
            logger.warning("%s cannot be written (%s): changes of %s will not be noticed", note, error, path)
    return ServedFile(path, content, "then restore the file and start it again.")


def build_once(folder: Path, fingerprint: Mapping[str, Any], build: Callable[[Path], None]) -> list[ServedFile]:
    """Build ``folder``, unless it already holds the undamaged result of an equal fingerprint.

    The files are written to a temporary folder next to it, which is renamed at the end: a build that dies leaves the
    earlier state, and the next build removes its remains. Processes that need the same folder build it once.

    Args:
        folder: folder of the result.
        fingerprint: JSON values that identify the inputs of the build.
        build: writes its files into the given (existing, empty) folder.

    Returns:
        The folder's files, to be checked while they are in use.
    """
    with _lock_of(folder) as writable:
        if not _is_usable(folder, fingerprint):
            if not writable:
                raise ReadOnlyError(
                    f"{folder} holds no index that can be used, and nothing can be written there: build it on a "
                    "machine that may, or set --index-dir to another folder."
                )
            _build(folder, fingerprint, build)
        remedy = f"then remove the folder {folder} and start it again: the index is rebuilt."
        contents = _contents(_record_of(folder) or {})
        return [ServedFile(folder / name, content, remedy) for name, content in contents.items()]


@contextlib.contextmanager
def _lock_of(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; yield False if the disk is read-only, so that there is none."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _build(folder: Path, fingerprint: Mapping[str, Any], build: Callable[[Path], None]) -> None:
    beside = f".{folder.name}.build-"
    for remains in folder.parent.glob(f"{beside}*"):
        shutil.rmtree(remains)
    logger.info("Building %s", folder)
    work = Path(tempfile.mkdtemp(prefix=beside, dir=folder.parent))
    try:
        build(work)
        files = {path.name: dataclasses.asdict(content_of(path)) for path in sorted(work.iterdir())}
        record = {"made_of": fingerprint, "files": files}
        (work / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    except Exception as error:
        free = shutil.disk_usage(folder.parent).free
        shutil.rmtree(work, ignore_errors=True)
        if _is_full(error, free):
            raise DiskFullError(
                f"The disk of {folder.parent} is full ({free >> 20} MiB were left): free some space, or set "
                "--index-dir to a folder on another disk."
            ) from error
        raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _is_full(error: Exception, free: int) -> bool:
    """Return whether a build failed for lack of disk space; libraries report that by errors of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return free < _LITTLE_BYTES and isinstance(error, OSError | RuntimeError | MemoryError)


def _is_usable(folder: Path, fingerprint: Mapping[str, Any]) -> bool:
    record = _record_of(folder)
    if record is None or record.get("made_of") != dict(fingerprint):
        return False
    damaged = [name for name, content in _contents(record).items() if not _holds(folder / name, content)]
    if damaged:
        logger.warning("%s is damaged, so the folder is rebuilt", folder / damaged[0])
        return False
    logger.info("Using %s again", folder)
    return True


def _holds(path: Path, content: Content) -> bool:
    try:
        return content_of(path) == content
    except OSError:
        return False


def _record_of(folder: Path) -> dict[str, Any] | None:
    """Read the record; None if there is no readable one."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        _contents(record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s is damaged (%s), so the folder is rebuilt", folder / RECORD, error)
        return None
    return record


def _contents(record: Mapping[str, Any]) -> dict[str, Content]:
    return {str(name): Content(**content) for name, content in record["files"].items()}
