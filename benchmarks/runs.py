"""Tables of finished runs: JSON lines, one a run, append-only.

`python -m benchmarks.runs TABLE FILE...` appends runs that were written as files of their own.
"""

from __future__ import annotations

import argparse
import fcntl
import json
from pathlib import Path
from typing import Any

KEY = ("task", "arm", "world", "seed")
Key = tuple[Any, ...]


def key(run: dict[str, Any]) -> Key:
    """Identify a run by task, arm, world and seed, as far as its experiment has them."""
    return tuple(run.get(name) for name in KEY)


def read(table: Path) -> list[dict[str, Any]]:
    """Read the runs of a table, sorted by their keys; none where there is no table yet."""
    if not table.exists():
        return []
    runs = [json.loads(line) for line in table.read_text().splitlines()]
    return sorted(runs, key=lambda run: [str(part) for part in key(run)])


def find(table: Path, **wanted: Any) -> dict[str, Any] | None:
    """Find the run of a key; None where it is not done yet."""
    return next((run for run in read(table) if key(run) == tuple(wanted.get(name) for name in KEY)), None)


def append(table: Path, run: dict[str, Any]) -> None:
    """Append a finished run in one piece. Several processes may append to one table.

    Raises:
        ValueError: a run of this key is there already.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if any(key(json.loads(line)) == key(run) for line in file):
            raise ValueError(f"{table.name} has a run of {key(run)} already: remove its line to run it again.")
        file.write(json.dumps(run) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runs", description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    for file in options.files:
        append(options.table, json.loads(file.read_text()))


if __name__ == "__main__":
    main()
