"""Cost of workspaces: a command, a snapshot and a fork, by size of the tree and by what has changed.

``python -m benchmarks.workspace [--folder FOLDER] [--out FILE]`` measures every technique that works in the folder,
and prints a table. Times are medians; bytes are what a snapshot and a fork add to the disk.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verl_atpo.settings import ConfigError
from verl_atpo.tools.sandbox.isolation import Isolation
from verl_atpo.tools.workspace import LocalProvider, WorkspaceConfig
from verl_atpo.tools.workspace.config import Technique
from verl_atpo.tools.workspace.trees import walk

WAYS = (
    (Isolation.BUBBLEWRAP, Technique.OVERLAY),
    (Isolation.BUBBLEWRAP, Technique.COPY),
    (Isolation.LANDLOCK, Technique.COPY),
)
FILE_BYTES = 8192


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the workspaces are kept")
    parser.add_argument("--files", type=int, nargs="+", default=[100, 1000, 5000], help="sizes of the tree")
    parser.add_argument("--changed", type=int, nargs="+", default=[1, 100], help="files changed before a snapshot")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    options = parser.parse_args()
    rows = [
        row
        for way in WAYS
        for files in options.files
        for row in measured(way, files, options.changed, options.repeats, options.folder)
    ]
    print(table(rows))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


def measured(
    way: tuple[Isolation, Technique], files: int, changes: list[int], repeats: int, folder: str | None
) -> list[dict[str, Any]]:
    """Measure one technique on a tree of ``files`` files."""
    isolation, technique = way
    config = WorkspaceConfig(isolation=isolation, technique=technique, folder=folder, disk_mb=4096, files=10**6)
    try:
        provider = LocalProvider(config)
    except ConfigError as error:
        print(f"{isolation.value} with {technique.value} does not work here: {error}")
        return []
    rows = []
    with tempfile.TemporaryDirectory() as template:
        for number in range(files):
            place = Path(template) / f"d{number % 50}"
            place.mkdir(exist_ok=True)
            (place / f"{number}").write_bytes(os.urandom(FILE_BYTES))
        try:
            provider.create(template).close()  # reads the template
            for changed in changes:
                rows.append(_row(provider, template, changed, repeats) | {"files": files, "changed": changed})
        finally:
            provider.close()
    return [{"isolation": isolation.value, "technique": technique.value, **row} for row in rows]


def _row(provider: LocalProvider, template: str, changed: int, repeats: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in ("create", "command", "snapshot", "fork")}
    added: dict[str, list[int]] = {"snapshot": [], "fork": []}
    kept: list[Any] = []  # what is closed or forgotten is removed by a thread, which would be measured with the rest
    for _ in range(repeats):
        workspace = _timed(seconds["create"], functools.partial(provider.create, template))
        _timed(seconds["command"], functools.partial(workspace.run, "true"))
        kept.append(workspace.snapshot())
        workspace.run(f"ls -d d*/* | head -n {changed} | while read f; do echo more >> $f; done")
        sizes = [_on_disk(provider)]
        snapshot = _timed(seconds["snapshot"], workspace.snapshot)
        sizes.append(_on_disk(provider))
        fork = _timed(seconds["fork"], functools.partial(provider.restore, snapshot))
        sizes.append(_on_disk(provider))
        added["snapshot"].append(sizes[1] - sizes[0])
        added["fork"].append(sizes[2] - sizes[1])
        kept += (workspace, snapshot, fork)
    for each in kept:
        if hasattr(each, "close"):
            each.close()
    times = {f"{name}_ms": round(1000 * statistics.median(all_s), 1) for name, all_s in seconds.items()}
    return times | {f"{name}_kb": round(statistics.median(sizes) / 1024) for name, sizes in added.items()}


def _timed(seconds: list[float], action: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = action()
    seconds.append(time.perf_counter() - started)
    return result


def _on_disk(provider: LocalProvider) -> int:
    """Return the bytes that all files of a provider take: hard links count once, reflinks each time."""
    inodes = {entry.info.st_ino: entry.info.st_blocks * 512 for entry in walk(provider.folder)}
    return sum(inodes.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows as a table of Markdown."""
    names = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows)])


if __name__ == "__main__":
    main()
