"""The index of a run's trees: a SQLite file in the user's cache that grows with the dump. The run stays untouched.

Two passes, both from where they stopped: the table of trees from the lines' heads, which is fast, then the words of
their texts, which is not. Pages read what there is so far.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from verl_atpo.report.record import Record, Summary
from verl_atpo.view.cache import default_cache, writable
from verl_atpo.view.files import Line, dump_files, fingerprint, new_lines, read, same_file, summary_of
from verl_atpo.view.filters import Filters, searchable

logger = logging.getLogger(__name__)

VERSION = 2
BATCH = 200
COLUMNS = (
    "uid", "step", "start", "prompt", "prompt_key", "source", "outcome", "reward", "rewards", "leaves", "nodes",
    "depth", "sampled_tokens", "saved", "tool_calls", "tool_errors", "outages", "diverged", "regrown", "seconds",
)  # fmt: skip
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, done INTEGER, fingerprint TEXT);
CREATE TABLE IF NOT EXISTS trees (id INTEGER PRIMARY KEY, file TEXT, offset INTEGER, length INTEGER,
    {", ".join(COLUMNS)}, UNIQUE (file, offset));
CREATE INDEX IF NOT EXISTS trees_uid ON trees (uid);
CREATE INDEX IF NOT EXISTS trees_step ON trees (step);
CREATE INDEX IF NOT EXISTS trees_prompt ON trees (prompt_key);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2');
CREATE TABLE IF NOT EXISTS worded (id INTEGER PRIMARY KEY);
PRAGMA user_version = {VERSION};
"""
INSERT = f"""
INSERT OR IGNORE INTO trees (file, offset, length, {", ".join(COLUMNS)})
VALUES (?, ?, ?, {", ".join("?" * len(COLUMNS))})
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One tree in the index.

    Attributes:
        id: in order of reading.
        line: where it stands.
        summary: what the table shows.
    """

    id: int
    line: Line
    summary: Summary


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the index is.

    Attributes:
        trees: in the table.
        worded: of them whose texts can be searched.
        last_step: highest step, ``None`` without trees.
    """

    trees: int
    worded: int
    last_step: int | None


class TreeIndex:
    """Index of all dumps below one folder.

    Args:
        folder: the run's.
        cache: folder of the index file; by default the user's cache.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder.resolve()
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        self.path = writable(cache or default_cache()) / f"{name}.sqlite"
        self._updating = threading.Lock()
        with contextlib.suppress(sqlite3.DatabaseError), self._connect() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
                return
        self._restart()

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # an index is made again, not repaired
            yield connection

    def _restart(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        with self._connect() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)

    def update(self) -> int:
        """Read what was added to the dumps since the last time; returns the number of new trees."""
        with self._updating:
            if self._overwritten():
                self._restart()
            return sum(self._extend(path) for path in dump_files(self.folder))

    def _overwritten(self) -> bool:
        """Whether a file that was read is gone, shorter, or another one."""
        with self._connect() as connection:
            files = connection.execute("SELECT name, done, fingerprint FROM files").fetchall()
        for name, done, before in files:
            path = self.folder / name
            try:
                if path.stat().st_size < done or not same_file(path, before):
                    return True
            except OSError:
                return True
        return False

    def _extend(self, path: Path) -> int:
        name = str(path.relative_to(self.folder))
        with self._connect() as connection:
            found = connection.execute("SELECT done FROM files WHERE name = ?", [name]).fetchone()
        done, added = (found[0] if found else 0), 0
        if path.stat().st_size <= done:
            return 0
        batch: list[tuple[object, ...]] = []
        for line, start in new_lines(path, name, done):
            done = line.offset + line.length + 1
            summary = summary_of(self.folder, line, start)
            if summary is None:
                logger.warning("No tree at byte %d of %s: left out", line.offset, path)
                continue
            values = [json.dumps(summary.get(key)) if key == "rewards" else summary.get(key) for key in COLUMNS]
            batch.append((line.file, line.offset, line.length, *values))
            if len(batch) == BATCH:
                added += self._insert(batch, path, name, done)
                batch = []
        return added + self._insert(batch, path, name, done)

    def _insert(self, batch: list[tuple[object, ...]], path: Path, name: str, done: int) -> int:
        with self._connect() as connection:
            connection.executemany(INSERT, batch)
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", [name, done, fingerprint(path)])
        return len(batch)

    def add_words(self, limit: int = BATCH) -> int:
        """Make the texts of up to ``limit`` more trees searchable; returns how many."""
        with self._updating, self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")  # another viewer may do the same
            query = (
                "SELECT id, file, offset, length FROM trees WHERE id > (SELECT ifnull(max(id), 0) FROM worded) LIMIT ?"
            )
            rows = connection.execute(query, [limit]).fetchall()
            for id, *line in rows:
                try:
                    words = searchable(texts_of(read(self.folder, Line(*line))))
                except (OSError, ValueError, KeyError):
                    words = ""  # overwritten: the next update notices
                connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", [id, words])
                connection.execute("INSERT INTO worded VALUES (?)", [id])
            return len(rows)

    def progress(self) -> Progress:
        """How far the index is."""
        with self._connect() as connection:
            trees, last = connection.execute("SELECT count(*), max(step) FROM trees").fetchone()
            (worded,) = connection.execute("SELECT count(*) FROM worded").fetchone()
        return Progress(trees, worded, last)

    def count(self, filters: Filters) -> int:
        """Number of trees that pass."""
        where, parameters = filters.where()
        with self._connect() as connection:
            return int(connection.execute(f"SELECT count(*) FROM trees WHERE {where}", parameters).fetchone()[0])

    def find(self, filters: Filters, limit: int = 50, offset: int = 0) -> list[Row]:
        """Trees that pass, in their order."""
        where, parameters = filters.where()
        return self._rows(f"WHERE {where} ORDER BY {filters.order()} LIMIT ? OFFSET ?", [*parameters, limit, offset])

    def by_uid(self, uid: str) -> Row | None:
        """The tree of that uid, the latest if there are several."""
        return next(iter(self._rows("WHERE uid = ? ORDER BY id DESC LIMIT 1", [uid])), None)

    def sources(self) -> list[str]:
        """All data sources."""
        with self._connect() as connection:
            found = connection.execute("SELECT DISTINCT source FROM trees WHERE source IS NOT NULL ORDER BY source")
            return [source for (source,) in found]

    def uids(self, filters: Filters) -> list[str]:
        """Names of all trees that pass, in their order."""
        where, parameters = filters.where()
        query = f"SELECT uid FROM trees WHERE {where} ORDER BY {filters.order()}"
        with self._connect() as connection:
            return [uid for (uid,) in connection.execute(query, parameters)]

    def record(self, row: Row) -> Record:
        """The tree itself.

        Raises:
            OSError, ValueError: its file is gone or overwritten.
        """
        return read(self.folder, row.line)

    def _rows(self, clause: str, parameters: Sequence[object]) -> list[Row]:
        query = f"SELECT id, file, offset, length, {', '.join(COLUMNS)} FROM trees {clause}"
        with self._connect() as connection:
            found = connection.execute(query, parameters).fetchall()
        return [Row(id, Line(file, offset, length), _summary(values)) for id, file, offset, length, *values in found]


def _summary(values: Sequence[Any]) -> Summary:
    fields = dict(zip(COLUMNS, values, strict=True))
    return Summary(**{**fields, "rewards": json.loads(fields["rewards"])})  # type: ignore[typeddict-item]


def texts_of(record: Record) -> str:
    """All texts of a tree that a search looks through, each once."""
    texts = [record.get("prompt", ""), str(record.get("ground_truth") or ""), record.get("failed") or ""]
    for node in record.get("nodes") or []:
        texts += [node.get("observation", ""), node.get("text", "")]
    return "\n".join(dict.fromkeys(texts))
