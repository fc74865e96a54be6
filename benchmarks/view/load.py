"""The viewer on a big dump: how long pages take in a real browser, and how much memory the server needs.

    python -m benchmarks.view.load [--trees 20000] [--folder DIR] [--out FILE]

Writes a made-up dump, unless ``--folder`` holds one, starts the viewer without an index, and looks with headless
Chromium. A page counts as there when its rows, or its picture and its panel, are drawn. Writes
``benchmarks/results/viewer.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.assets.browser import browser, viewer, wait_until
from verl_atpo.view.demo import write_demo
from verl_atpo.view.filters import Filters
from verl_atpo.view.index import TreeIndex

RESULT = Path(__file__).parents[1] / "results" / "viewer.json"
ROWS = "return document.querySelectorAll('.tree-table tbody tr').length"
TREE = "return document.querySelectorAll('[data-node], [data-part=selected]').length > 1"
SAMPLED_TREES = 25
SEARCH = '"query Lin Aoki" Velden'


class Stopwatch:
    """Looks at pages with a browser and takes the time."""

    def __init__(self, driver: Any, address: str, process: psutil.Process) -> None:
        self.driver, self.address, self.process = driver, address, process
        self.peak = 0

    def page(self, path: str, there: str) -> float:
        """Seconds until a page is there."""
        started = time.perf_counter()
        self.driver.get(self.address + path)
        wait_until(lambda: self.driver.execute_script(there), 120)
        taken = time.perf_counter() - started
        self.memory()
        return taken

    def memory(self) -> None:
        """Note the memory of the server's processes."""
        running = [self.process, *self.process.children(recursive=True)]
        self.peak = max(self.peak, sum(each.memory_info().rss for each in running))


def measure(folder: Path, cache: Path) -> list[dict[str, Any]]:
    """Measure all figures, one a row."""
    rows: list[dict[str, Any]] = []

    def note(what: str, value: float, goal: str = "") -> None:
        rows.append({"what": what, "measured": value, "goal": goal})

    with browser() as driver, viewer(folder, cache) as (address, process):
        watch = Stopwatch(driver, address, psutil.Process(process.pid))
        started = time.perf_counter()
        note("first page, nothing indexed yet, s", watch.page("/", ROWS), "3")
        index = TreeIndex(folder, cache)
        total = count_lines(folder)
        waited: dict[str, float] = {}
        for what, done in (("table", lambda p: p.trees), ("texts", lambda p: p.worded)):
            while done(index.progress()) < total:
                watch.memory()
                time.sleep(0.2)
            waited[what] = time.perf_counter() - started
        note("all trees in the table after, s", waited["table"])
        note("all texts searchable after, s", waited["texts"])
        note("first page, s", statistics.median(watch.page("/", ROWS) for _ in range(5)), "3")
        uids = [row.summary["uid"] for row in index.find(Filters(), total)]
        trees = [watch.page(f"/tree/{uid}", TREE) for uid in random.Random(0).sample(uids, SAMPLED_TREES)]
        note("a tree, s", statistics.median(trees), "0.5")
        note("a tree, slowest of 25, s", max(trees))
        searched = Filters(text=SEARCH)
        note("search over all texts, s", watch.page(f"/?{searched.to_query()}", ROWS))
        note("trees found by it", index.count(searched))
        note("memory of the server, highest, MB", watch.peak / 1e6, "500")
    note("trees", total)
    note("dump, MB", sum(path.stat().st_size for path in folder.rglob("trees-*.jsonl")) / 1e6)
    note("index, MB", sum(path.stat().st_size for path in cache.iterdir()) / 1e6)
    return rows


def count_lines(folder: Path) -> int:
    """Trees of a dump."""
    total = 0
    for path in folder.rglob("trees-*.jsonl"):
        with path.open("rb") as file:
            total += sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 22), b""))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="a run's folder instead of a made-up one; kept")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made) / "run"
        if not folder.exists():
            write_demo(folder, options.trees, per_step=128)
        cache = Path(made) / "cache"
        cache.mkdir()
        rows = measure(folder, cache)
    options.out.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
