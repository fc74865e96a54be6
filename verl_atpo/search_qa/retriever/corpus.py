"""The passages: a JSON-lines file that is read where it lies, whatever its size."""

from __future__ import annotations

import array
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from verl_atpo.search_qa.retriever.artifacts import build_once, file_fingerprint

_OFFSETS = "offsets.npy"


class CorpusError(ValueError):
    """A corpus that cannot be used; says file, line, what was found and what is expected."""


class Corpus:
    r"""Passages of a file with one ``{"id": ..., "contents": "\"Title\"\ntext"}`` a line (wiki-18's form).

    Every line is checked once, when the places of the lines are written down (8 bytes each, memory-mapped later); the
    file itself is memory-mapped, so what is resident is what the operating system keeps of both. Blank lines are
    skipped, ``id`` may be missing (the line number counts instead), other keys are ignored. Reading is thread-safe.

    Args:
        path: the file.
        index_dir: folder for the places of the lines.

    Raises:
        CorpusError: no such file, no passage, or a line of another form.
    """

    def __init__(self, path: Path, index_dir: Path) -> None:
        if not path.is_file():
            raise CorpusError(f"{path}: no such file; expected JSON lines, one passage each (unpack a .gz first)")
        self.path = path
        self.fingerprint = file_fingerprint(path)

        def build(folder: Path) -> None:
            np.save(folder / _OFFSETS, _find_lines(path))

        folder = build_once(index_dir / "lines", {"corpus": self.fingerprint}, build)
        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """``{"id", "contents"}`` of the passage at ``place``, counted from 0."""
        start = int(self._offsets[place])
        end = self._bytes.find(b"\n", start)
        passage = json.loads(self._bytes[start : end if end >= 0 else len(self._bytes)])
        return {"id": passage.get("id", str(place)), "contents": passage["contents"]}

    def texts(self, progress: str) -> Iterator[str]:
        """``contents`` of all passages in order.

        Args:
            progress: title of the progress bar.
        """
        for place in tqdm(range(len(self)), desc=progress, unit=" passages"):
            yield self[place]["contents"]


def _find_lines(path: Path) -> np.ndarray:
    """Where the passages begin, after a check of each: uint64, one per passage."""
    offsets = array.array("Q")
    offset = 0
    with (
        path.open("rb") as file,
        tqdm(
            desc=f"Checking {path.name}", total=path.stat().st_size, unit="B", unit_scale=True, mininterval=1.0
        ) as bar,
    ):
        for number, line in enumerate(file, start=1):
            if line.strip():
                _check(line, f"{path}, line {number}")
                offsets.append(offset)
            offset += len(line)
            bar.update(len(line))
    if not offsets:
        raise CorpusError(f"{path}: got 0 passages, expected at least 1")
    return np.frombuffer(offsets, dtype=np.uint64)


def _check(line: bytes, place: str) -> None:
    try:
        passage = json.loads(line)
    except ValueError as error:
        raise CorpusError(f"{place}: not JSON ({error}); expected one object a line") from None
    contents = passage.get("contents") if isinstance(passage, dict) else None
    if not isinstance(contents, str) or not contents.strip():
        shown = line[:120].decode("utf-8", "replace").strip()
        raise CorpusError(f'{place}: expected {{"id": ..., "contents": "\\"Title\\"\\ntext"}}, got {shown}')
