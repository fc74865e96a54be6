"""Corpus of passages: a JSON-lines file of any size that is read in place."""

from __future__ import annotations

import array
import dataclasses
import functools
import json
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from verl_atpo.search_qa.retriever.artifacts import DamagedError, build_once, content_of
from verl_atpo.search_qa.retriever.unicode import valid_unicode

logger = logging.getLogger(__name__)

_OFFSETS, _CHECKSUMS = "offsets.npy", "checksums.npy"
MOST_LINE_BYTES = 64 << 20
"""Longest line, so that a file of another kind is not read into memory as one."""
_NAMED_LINES = 5


class CorpusError(ValueError):
    """A corpus that cannot be used; the message names file, line, and the found and expected form."""


class Corpus:
    r"""Passages of a file with one ``{"id": ..., "contents": "\"Title\"\ntext"}`` a line (wiki-18's form).

    Every line is checked once, and the offset of each passage (8 bytes) and the checksum of its line (4 bytes) are
    stored. Both are memory-mapped later, and the file is read passage by passage. Blank lines are skipped, ``id`` may
    be missing (the passage's number is used instead), other keys are ignored. Halves of surrogate pairs, which JSON can
    spell and UTF-8 cannot encode, are served as U+FFFD. Reading is thread-safe.

    Args:
        path: the file.
        index_dir: folder for the offsets of the lines.

    Raises:
        CorpusError: no such file, no passage, or a line of another form.
    """

    def __init__(self, path: Path, index_dir: Path) -> None:
        if not path.is_file():
            raise CorpusError(f"{path}: no such file; expected JSON lines, one passage each (unpack a .gz first)")
        self.path = path
        self._file = path.open("rb")
        content = content_of(self._file.fileno())
        self.fingerprint = dataclasses.asdict(content)
        self._end = content.bytes

        def build(folder: Path) -> None:
            offsets, checksums = _find_lines(path)
            np.save(folder / _OFFSETS, offsets)
            np.save(folder / _CHECKSUMS, checksums)

        folder = index_dir / "lines"
        self._files = build_once(folder, {"corpus": self.fingerprint, "form": 2}, build)
        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")
        self._checksums = np.load(folder / _CHECKSUMS, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Return ``{"id", "contents"}`` of the passage at ``place``, counted from 0.

        Raises:
            DamagedError: the file no longer holds it.
        """
        start = int(self._offsets[place])
        end = int(self._offsets[place + 1]) if place + 1 < len(self) else self._end
        line = os.pread(self._file.fileno(), end - start, start)
        if zlib.crc32(line) != self._checksums[place]:
            raise DamagedError(
                f"{self.path} was changed while it was served (passage {place}, at byte {start}). Stop the server, "
                "restore the file or keep the new one, and start it again."
            )
        return _passage(line.strip(), place)

    def check(self) -> None:
        """Raise :class:`DamagedError` if the stored offsets have changed; a passage is checked when it is read."""
        for file in self._files:
            file.check()

    def texts(self, progress: str) -> Iterator[str]:
        """Yield ``contents`` of all passages in order.

        Args:
            progress: title of the progress bar.
        """
        for place in tqdm(range(len(self)), desc=progress, unit=" passages"):
            yield self[place]["contents"]


def _passage(line: bytes, place: int) -> dict[str, Any]:
    passage = json.loads(line)
    name = passage.get("id")
    return {
        "id": str(place) if name is None else valid_unicode(name) if isinstance(name, str) else name,
        "contents": valid_unicode(passage["contents"]),
    }


def _find_lines(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Check each line; return the passages' offsets (uint64) and the checksums up to the next passage (uint32)."""
    offsets, checksums, mended = array.array("Q"), array.array("I"), array.array("Q")
    offset = 0
    with (
        path.open("rb") as file,
        tqdm(
            desc=f"Checking {path.name}", total=path.stat().st_size, unit="B", unit_scale=True, mininterval=1.0
        ) as bar,
    ):
        for number, line in enumerate(iter(functools.partial(file.readline, MOST_LINE_BYTES + 1), b""), start=1):
            if len(line) > MOST_LINE_BYTES:
                raise CorpusError(f"{path}, line {number}: longer than {MOST_LINE_BYTES} bytes; one passage a line")
            if line.strip():
                if _check(line.strip(), f"{path}, line {number}"):
                    mended.append(number)
                offsets.append(offset)
                checksums.append(zlib.crc32(line))
            elif checksums:  # blank lines belong to the passage before them
                checksums[-1] = zlib.crc32(line, checksums[-1])
            offset += len(line)
            bar.update(len(line))
    if not offsets:
        raise CorpusError(f"{path}: got 0 passages, expected at least 1")
    if mended:
        named = ", ".join(map(str, mended[:_NAMED_LINES]))
        more = f" and {len(mended) - _NAMED_LINES} more" if len(mended) > _NAMED_LINES else ""
        logger.warning("%s: lines %s%s hold halves of surrogate pairs; they are served as U+FFFD", path, named, more)
    return np.frombuffer(offsets, dtype=np.uint64), np.frombuffer(checksums, dtype=np.uint32)


def _check(line: bytes, place: str) -> bool:
    """Check a line; return whether its text has to be repaired."""
    try:
        passage = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: not JSON ({error}); expected one object a line") from None
    contents = passage.get("contents") if isinstance(passage, dict) else None
    if not isinstance(contents, str) or not contents.strip():
        shown = line[:120].decode("utf-8", "replace")
        raise CorpusError(f'{place}: expected {{"id": ..., "contents": "\\"Title\\"\\ntext"}}, got {shown}')
    name = passage.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise CorpusError(f"{place}: expected text or a whole number as id, got {str(name)[:120]}")
    return any(valid_unicode(text) != text for text in (contents, name) if isinstance(text, str))
