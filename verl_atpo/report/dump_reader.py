"""Reader of a dump's files and of single lines; a line that is still being written is left for later."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_atpo.report.record import Record, Summary
from verl_atpo.report.record_check import check_record, check_summary

PATTERN = "trees-*.jsonl"
DEPTH = 3
"""Levels of folders that are searched, the given one included."""
CHUNK = 1 << 22
HEAD = 1 << 14
FINGERPRINT = 512
LONGEST_LINE = 64 << 20
"""Bytes of a line; a longer one holds no tree that can be looked at."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Line:
    """Position of one tree.

    Attributes:
        file: name of its file, relative to the run's folder.
        offset: position of its first byte.
        length: in bytes, the newline excluded.
    """

    file: str
    offset: int
    length: int


class OddLine(ValueError):
    """A line that holds no tree; the message says why."""


def dump_files(folder: Path) -> list[Path]:
    """List all files with trees in ``folder`` and below, sorted by name."""
    return sorted(found for depth in range(DEPTH) for found in folder.glob("*/" * depth + PATTERN))


def new_lines(path: Path, name: str, start: int) -> Iterator[tuple[Line, bytes]]:
    """Yield complete lines from byte ``start`` on, each with its first :data:`HEAD` bytes.

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


def parse(text: str, *, whole: bool = True) -> Any:
    """Parse JSON of unknown origin; numbers that JSON lacks become ``None``.

    Args:
        text: the JSON.
        whole: ``text`` holds nothing else; otherwise ``text`` begins with it.

    Raises:
        OddLine: it is no JSON, or nested too deeply.
    """
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    try:
        return decoder.decode(text) if whole else decoder.raw_decode(text)[0]
    except RecursionError:
        raise OddLine("no JSON: nested too deeply") from None
    except ValueError as error:
        raise OddLine(f"no JSON: {error}") from None


def head(start: bytes) -> Summary | None:
    """Read the summary that a line begins with, from its first bytes.

    Returns:
        ``None``: it begins otherwise, or the bytes end before the summary does.
    """
    key = b'{"summary":'
    if not start.startswith(key):
        return None
    try:
        return check_summary(_clean(parse(start[len(key) :].decode("utf-8", "ignore").lstrip(), whole=False)))
    except ValueError:
        return None


def read(folder: Path, line: Line) -> Record:
    """Read one tree.

    Raises:
        OSError: the file is gone.
        OddLine: it is no tree, or the file has been overwritten since it was indexed.
    """
    if line.length > LONGEST_LINE:
        raise OddLine(f"{line.length >> 20} MB in one line, at most {LONGEST_LINE >> 20} are read")
    with (folder / line.file).open("rb") as file:
        file.seek(line.offset)
        content = file.read(line.length)
    try:
        value = parse(content.decode("utf-8", "replace"))
        return check_record(_clean(value) if b"\\ud" in content.lower() else value)
    except OddLine:
        raise
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise OddLine(str(error) or type(error).__name__) from None


def _clean(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no database and no encoding takes."""
    if isinstance(value, str):
        return _HALF_PAIR.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list) else value


def summary_of(folder: Path, line: Line, start: bytes) -> Summary:
    """Read the summary of a line: its head, or made from all of it.

    Raises:
        OddLine: the line holds no tree.
    """
    return head(start) or read(folder, line)["summary"]


def fingerprint(path: Path, size: int = FINGERPRINT) -> str:
    """Name the content of a file by its first ``size`` bytes, ``"<bytes>:<hash>"``, to notice another of its name."""
    with path.open("rb") as file:
        start = file.read(size)
    return f"{len(start)}:{hashlib.sha256(start).hexdigest()}"


def same_file(path: Path, before: str) -> bool:
    """Return whether ``path`` still begins as it did when its :func:`fingerprint` was ``before``."""
    return fingerprint(path, int(before.split(":")[0])) == before


def read_trees(folder: Path) -> list[Record]:
    """Read all trees of a folder, by step; for small dumps, everything else goes through an index.

    Raises:
        FileNotFoundError: there are none.
        OddLine: a line holds no tree.
    """
    trees = [
        read(folder, line)
        for path in dump_files(folder)
        for line, _ in new_lines(path, str(path.relative_to(folder)), 0)
    ]
    if not trees:
        raise FileNotFoundError(f"no trees in {folder}: run with algorithm.atpo.dump_dir={folder}")
    return sorted(trees, key=lambda tree: tree["global_step"])
