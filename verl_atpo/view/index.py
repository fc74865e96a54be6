"""The index of a run's trees: a SQLite file in the user's cache that grows with the dump.

Two passes, both continued where they stopped: a fast one makes the table of trees from the beginnings of the lines, a
slow one checks whole trees, makes their texts searchable, and notes which turns were selected for re-sampling. Lines
that hold no tree are counted. The run's own files are only read. An index that was removed is made again.
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
from pathlib import Path, PurePath
from typing import Any

from verl_atpo.report.dump_reader import (
    Line,
    OddLine,
    dump_files,
    fingerprint,
    new_lines,
    read,
    same_file,
    summary_of,
)
from verl_atpo.report.record import Record, Summary
from verl_atpo.view.cache import default_cache, writable
from verl_atpo.view.filters import Filters, searchable
from verl_atpo.view.selections import selections_of

logger = logging.getLogger(__name__)

VERSION = 3
BATCH = 200
COLUMNS = (
    "uid", "step", "start", "prompt", "prompt_key", "source", "outcome", "reward", "rewards", "leaves", "nodes",
    "depth", "sampled_tokens", "saved", "tool_calls", "tool_errors", "outages", "diverged", "regrown", "seconds",
)  # fmt: skip
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, done INTEGER, fingerprint TEXT);
CREATE TABLE IF NOT EXISTS trees (id INTEGER PRIMARY KEY AUTOINCREMENT, file TEXT, offset INTEGER, length INTEGER,
    run TEXT, {", ".join(COLUMNS)}, UNIQUE (file, offset));
CREATE INDEX IF NOT EXISTS trees_uid ON trees (uid);
CREATE INDEX IF NOT EXISTS trees_step ON trees (step);
CREATE INDEX IF NOT EXISTS trees_prompt ON trees (prompt_key);
CREATE INDEX IF NOT EXISTS trees_run ON trees (run, step);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2');
CREATE TABLE IF NOT EXISTS worded (id INTEGER PRIMARY KEY, selections TEXT);
CREATE TABLE IF NOT EXISTS skipped (file TEXT, offset INTEGER, reason TEXT, UNIQUE (file, offset));
PRAGMA user_version = {VERSION};
"""
INSERT = f"""
INSERT OR IGNORE INTO trees (file, offset, length, run, {", ".join(COLUMNS)})
VALUES (?, ?, ?, ?, {", ".join("?" * len(COLUMNS))})
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One tree in the index.

    Attributes:
        id: in order of reading.
        line: where it is in the dump.
        run: name of its run (:func:`run_name`).
        summary: facts that the table shows.
    """

    id: int
    line: Line
    run: str
    summary: Summary


@dataclasses.dataclass(frozen=True)
class Progress:
    """State of the index.

    Attributes:
        trees: in the table.
        worded: trees whose texts can be searched.
        last_step: highest step, ``None`` without trees.
        skipped: lines that hold no tree.
        reason: why the first of them was skipped, and where it is; empty without one.
    """

    trees: int
    worded: int
    last_step: int | None
    skipped: int
    reason: str


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """One run among those that a folder holds.

    Attributes:
        name: as :func:`run_name` makes it.
        folder: folder of its files, relative to the one that is shown.
        start: name of its start, empty if the dump does not say.
        trees: in the table.
        first_step, last_step: range of the steps of its trees.
    """

    name: str
    folder: str
    start: str
    trees: int
    first_step: int
    last_step: int


@dataclasses.dataclass(frozen=True)
class SharedTask:
    """A task that two runs sampled.

    Attributes:
        key: short name of the task.
        prompt: beginning of its text.
        left, right: mean reward of its trees in the one run and in the other.
        left_trees, right_trees: numbers of those trees.
    """

    key: str
    prompt: str
    left: float
    right: float
    left_trees: int
    right_trees: int


def run_name(file: str, start: str | None) -> str:
    """Name a run by the folder of its dump and the start that wrote it: ``folder|start``."""
    return f"{PurePath(file).parent.as_posix()}|{start or ''}"


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
        with self._connect():
            pass

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open the index; where it is missing, of another version or no database, an empty one is made."""
        try:
            connection = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and self.path.exists():
                raise  # locked, or a disk that is full: no reason to begin again
            self._remove()
            connection = self._open()
        with contextlib.closing(connection), connection:
            yield connection

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            connection.execute("PRAGMA synchronous = OFF")  # an index is made again, not repaired
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"version {version}")
            if version == 0:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def update(self) -> int:
        """Read the lines added to the dumps since the last call; returns the number of new trees."""
        with self._updating:
            if self._overwritten():
                self._remove()
            return sum(self._extend(path) for path in dump_files(self.folder))

    def _overwritten(self) -> bool:
        """Return whether a file that was read is gone, shorter, or another one."""
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
        odd: list[tuple[str, int, str]] = []
        for line, start in new_lines(path, name, done):
            done = line.offset + line.length + 1
            try:
                batch.append(_values(line, summary_of(self.folder, line, start)))
            except OddLine as error:
                odd.append((name, line.offset, str(error)))
            if len(batch) + len(odd) >= BATCH:
                added += self._insert(batch, odd, path, done)
                batch, odd = [], []
        return added + self._insert(batch, odd, path, done)

    def _insert(self, batch: list[tuple[object, ...]], odd: list[tuple[str, int, str]], path: Path, done: int) -> int:
        name = str(path.relative_to(self.folder))
        with self._connect() as connection:
            connection.executemany(INSERT, batch)
            connection.executemany("INSERT OR IGNORE INTO skipped VALUES (?, ?, ?)", odd)
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", [name, done, fingerprint(path)])
        return len(batch)

    def add_words(self, limit: int = BATCH) -> int:
        """Check up to ``limit`` more trees and make their texts searchable; returns how many were looked at."""
        with self._updating, self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")  # another viewer may do the same
            query = (
                "SELECT id, file, offset, length FROM trees WHERE id > (SELECT ifnull(max(id), 0) FROM worded) LIMIT ?"
            )
            rows = connection.execute(query, [limit]).fetchall()
            for id, *line in rows:
                words, selections = "", ""
                try:
                    record = read(self.folder, Line(*line))
                    words, selections = searchable(texts_of(record)), json.dumps(selections_of(record))
                except OddLine as error:
                    file, offset, _ = line
                    connection.execute("DELETE FROM trees WHERE id = ?", [id])
                    connection.execute("INSERT OR IGNORE INTO skipped VALUES (?, ?, ?)", [file, offset, str(error)])
                except OSError:
                    pass  # gone: the next update notices
                connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", [id, words])
                connection.execute("INSERT INTO worded VALUES (?, ?)", [id, selections])
            return len(rows)

    def progress(self) -> Progress:
        """State of the index."""
        with self._connect() as connection:
            trees, last = connection.execute("SELECT count(*), max(step) FROM trees").fetchone()
            (worded,) = connection.execute("SELECT count(*) FROM worded JOIN trees USING (id)").fetchone()
            (skipped,) = connection.execute("SELECT count(*) FROM skipped").fetchone()
            first = connection.execute("SELECT file, offset, reason FROM skipped ORDER BY file, offset").fetchone()
        reason = f"{first[2]} (byte {first[1]} of {first[0]})" if first else ""
        return Progress(trees, worded, last, skipped, reason)

    def runs(self) -> list[RunFacts]:
        """List the runs of the folder, the latest start first."""
        query = "SELECT run, count(*), min(step), max(step), max(id) FROM trees GROUP BY run"
        with self._connect() as connection:
            found = connection.execute(query).fetchall()
        facts = [(RunFacts(run, *run.rsplit("|", 1), *counts), last) for run, *counts, last in found]
        return [each for each, _ in sorted(facts, key=lambda pair: (pair[0].start, pair[1]), reverse=True)]

    def means(self, run: str, column: str) -> list[tuple[int, float]]:
        """Mean of a column of the table by step, for one run."""
        assert column in COLUMNS
        query = f"SELECT step, avg({column}) FROM trees WHERE run = ? AND {column} IS NOT NULL GROUP BY step"
        with self._connect() as connection:
            return [(step, mean) for step, mean in connection.execute(query, [run])]

    def tasks(self, left: str, right: str, limit: int) -> list[SharedTask]:
        """List the tasks of two runs whose mean rewards differ most."""
        means = """(SELECT prompt_key, prompt, avg(reward) AS reward, count(*) AS trees FROM trees
            WHERE run = ? AND reward IS NOT NULL GROUP BY prompt_key)"""
        query = f"""SELECT a.prompt_key, a.prompt, a.reward, b.reward, a.trees, b.trees
            FROM {means} AS a JOIN {means} AS b USING (prompt_key)
            ORDER BY abs(a.reward - b.reward) DESC, a.prompt_key LIMIT ?"""
        with self._connect() as connection:
            return [SharedTask(*found) for found in connection.execute(query, [left, right, limit])]

    def selections(self, filters: Filters) -> list[dict[str, Any]]:
        """Selections of the trees that pass, as :func:`~verl_atpo.view.selections.selections_of` counts them."""
        where, parameters = filters.where()
        query = f"SELECT selections FROM worded WHERE selections != '' AND id IN (SELECT id FROM trees WHERE {where})"
        with self._connect() as connection:
            return [json.loads(text) for (text,) in connection.execute(query, parameters)]

    def count(self, filters: Filters) -> int:
        """Count the trees that pass."""
        where, parameters = filters.where()
        with self._connect() as connection:
            return int(connection.execute(f"SELECT count(*) FROM trees WHERE {where}", parameters).fetchone()[0])

    def find(self, filters: Filters, limit: int = 50, offset: int = 0) -> list[Row]:
        """List the trees that pass, in their order."""
        where, parameters = filters.where()
        return self._rows(f"WHERE {where} ORDER BY {filters.order()} LIMIT ? OFFSET ?", [*parameters, limit, offset])

    def by_uid(self, uid: str) -> Row | None:
        """Find the tree of a uid, the latest if there are several."""
        return next(iter(self._rows("WHERE uid = ? ORDER BY id DESC LIMIT 1", [uid])), None)

    def sources(self) -> list[str]:
        """List all data sources."""
        with self._connect() as connection:
            found = connection.execute("SELECT DISTINCT source FROM trees WHERE source IS NOT NULL ORDER BY source")
            return [source for (source,) in found]

    def uids(self, filters: Filters) -> list[str]:
        """List the names of all trees that pass, in their order."""
        where, parameters = filters.where()
        query = f"SELECT uid FROM trees WHERE {where} ORDER BY {filters.order()}"
        with self._connect() as connection:
            return [uid for (uid,) in connection.execute(query, parameters)]

    def record(self, row: Row) -> Record:
        """Read the tree itself.

        Raises:
            OSError, OddLine: its file is gone or overwritten.
        """
        return read(self.folder, row.line)

    def _rows(self, clause: str, parameters: Sequence[object]) -> list[Row]:
        query = f"SELECT id, file, offset, length, run, {', '.join(COLUMNS)} FROM trees {clause}"
        with self._connect() as connection:
            found = connection.execute(query, parameters).fetchall()
        return [
            Row(id, Line(file, offset, length), run, _summary(values))
            for id, file, offset, length, run, *values in found
        ]


def _values(line: Line, summary: Summary) -> tuple[object, ...]:
    values = [json.dumps(summary["rewards"]) if key == "rewards" else summary.get(key) for key in COLUMNS]
    return (line.file, line.offset, line.length, run_name(line.file, summary["start"]), *values)


def _summary(values: Sequence[Any]) -> Summary:
    fields = dict(zip(COLUMNS, values, strict=True))
    return Summary(**{**fields, "rewards": json.loads(fields["rewards"])})  # type: ignore[typeddict-item]


def texts_of(record: Record) -> str:
    """Join all texts of a tree that a search looks through, each once: its failures and errors of tools too."""
    texts = [record["prompt"], str(record["ground_truth"] or ""), record["failed"] or ""]
    for node in record["nodes"]:
        texts += [node["observation"], node["text"]]
        texts += [call["error"] or "" for call in node.get("tool_calls", [])]
    for trajectory in record["trajectories"]:
        texts += [*trajectory.get("failures", []), trajectory.get("tail", "")]
        texts += ["diverged"] if trajectory.get("diverged") else []
    return "\n".join(dict.fromkeys(texts))
