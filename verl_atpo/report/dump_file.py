"""Files of a dump: complete lines are appended, a full file is followed by the next, a full disk ends dumping."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from pathlib import Path

logger = logging.getLogger(__name__)

ROTATE_BYTES = 256 << 20
"""Size after which a file is followed by the next."""


class DumpFile:
    """Appends lines to ``<folder>/trees-<host>-<process id>-<random>-<number>.jsonl``.

    A process id alone is not enough: workers on several nodes write to one folder, and so do a run and its resumption.

    Args:
        folder: made when missing.
        rotate_bytes: size after which the next file begins.

    Attributes:
        stopped: no line is written any more, because the disk is full or fails.
    """

    def __init__(self, folder: Path, rotate_bytes: int = ROTATE_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rotate_bytes = folder, rotate_bytes
        self._stem = f"trees-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._number = self._size = 0
        self.stopped = False

    @property
    def path(self) -> Path:
        """The file that the next line goes to."""
        return self._folder / f"{self._stem}-{self._number:03d}.jsonl"

    def append(self, line: bytes) -> None:
        """Append one complete line or nothing; the first failure is logged, and ends writing."""
        if self.stopped:
            return
        if self._size and self._size + len(line) > self._rotate_bytes:
            self._number, self._size = self._number + 1, 0
        try:
            with self.path.open("ab", buffering=0) as file:
                written = file.write(line)
                while written < len(line):  # a disk that fills takes part of it first
                    written += file.write(line[written:])
        except OSError as error:
            self.stop(f"{self.path} cannot be written ({error})")
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._size)
        else:
            self._size += len(line)

    def stop(self, reason: str) -> None:
        """Stop writing."""
        self.stopped = True
        logger.warning("%s: no further trees are dumped by this worker; training continues", reason)
