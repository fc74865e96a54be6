"""Dump files: finding them, and reading one line without the others. A line that is still being written is not read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from verl_atpo.report.record import Record, Summary, summarize

PATTERN = "trees-*.jsonl"
DEPTH = 3
"""Folders below the given one that are looked into."""
CHUNK = 1 << 22
HEAD = 1 << 14
FINGERPRINT = 512


@dataclasses.dataclass(frozen=True)
class Line:
    """Where one tree stands.

    Attributes:
        file: name of its file, relative to the run's folder.
        offset: of its first byte.
        length: in bytes, the newline excluded.
    """

    file: str
    offset: int
    length: int


def dump_files(folder: Path) -> list[Path]:
    """All files with trees in ``folder`` and below, oldest name first."""
    return sorted(found for depth in range(DEPTH) for found in folder.glob("*/" * depth + PATTERN))


def new_lines(path: Path, name: str, start: int) -> Iterator[tuple[Line, bytes]]:
    """Whole lines from byte ``start`` on, each with its first :data:`HEAD` bytes.

    Reads the file once, a chunk at a time; a torn last line is left for the next time.
    """
    with path.open("rb") as file:
        file.seek(start)
        offset, pending = start, b""
        length = 0
        while chunk := file.read(CHUNK):
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                total = length + len(piece)
                if total:
                    yield Line(name, offset, total), (pending + piece[:HEAD])[:HEAD]
                offset += total + 1
                pending, length = b"", 0
            pending, length = (pending + rest[:HEAD])[:HEAD], length + len(rest)


def head(start: bytes) -> Summary | None:
    """The summary that a line begins with, from its first bytes; ``None``: it begins otherwise."""
    key = b'{"summary":'
    if not start.startswith(key):
        return None
    try:
        summary, _ = json.JSONDecoder().raw_decode(start[len(key) :].decode("utf-8", "ignore").lstrip())
    except ValueError:
        return None
    return Summary(**summary) if isinstance(summary, dict) else None


def read(folder: Path, line: Line) -> Record:
    """One tree.

    Raises:
        OSError, ValueError: the file is gone, or has been overwritten since it was indexed.
    """
    with (folder / line.file).open("rb") as file:
        file.seek(line.offset)
        record = json.loads(file.read(line.length))
    if not isinstance(record, dict) or "nodes" not in record:
        raise ValueError(f"no tree at byte {line.offset} of {line.file}: the file has been overwritten, reload.")
    return Record(**record)


def summary_of(folder: Path, line: Line, start: bytes) -> Summary | None:
    """The summary of a line: its head, or made from all of it; ``None`` for a line that holds no tree."""
    found = head(start)
    if found is not None:
        return found
    try:
        return summarize(read(folder, line))
    except (ValueError, KeyError, TypeError):
        return None


def fingerprint(path: Path, size: int = FINGERPRINT) -> str:
    """Tells a file from another one that took its name, by its first ``size`` bytes; ``"<bytes>:<hash>"``."""
    with path.open("rb") as file:
        start = file.read(size)
    return f"{len(start)}:{hashlib.sha256(start).hexdigest()}"


def same_file(path: Path, before: str) -> bool:
    """Whether ``path`` still begins as it did when its :func:`fingerprint` was ``before``."""
    return fingerprint(path, int(before.split(":")[0])) == before


def read_trees(folder: Path) -> list[Record]:
    """All trees of a folder, by step; for small dumps, everything else goes through an index.

    Raises:
        FileNotFoundError: there are none.
    """
    trees = [
        read(folder, line)
        for path in dump_files(folder)
        for line, _ in new_lines(path, str(path.relative_to(folder)), 0)
    ]
    if not trees:
        raise FileNotFoundError(f"no trees in {folder}: run with algorithm.atpo.dump_dir={folder}")
    return sorted(trees, key=lambda tree: tree["global_step"])
