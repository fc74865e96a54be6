"""A folder that is built once and used again: whole or not there, and rebuilt when what it was made of changes."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"


def build_once(folder: Path, fingerprint: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """``folder``, built unless it holds the work of an equal fingerprint already.

    The work is done in a folder beside it, which takes its name when all is written: a build that dies leaves the
    former state, and its remains are removed by the next one. Processes that want the same folder build it once.

    Args:
        folder: where the result belongs.
        fingerprint: JSON values that say what the result is made of.
        build: writes its files into the (existing, empty) folder it is given.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if _fingerprint_of(folder) == dict(fingerprint):
            logger.info("Using %s again", folder)
            return folder
        beside = f".{folder.name}.build-"
        for remains in folder.parent.glob(f"{beside}*"):
            shutil.rmtree(remains)
        logger.info("Building %s", folder)
        work = Path(tempfile.mkdtemp(prefix=beside, dir=folder.parent))
        try:
            build(work)
            (work / FINGERPRINT).write_text(json.dumps(fingerprint, indent=2), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return folder


def _fingerprint_of(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and time of the last change of a file."""
    stat = path.stat()
    return {"bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}
