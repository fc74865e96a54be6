"""Injects every fault that a test is marked with, and writes what happened to ``docs/faults.md``.

    python -m benchmarks.faults                    # all but real training runs
    python -m benchmarks.faults -m fault           # those too
    python -m benchmarks.faults tests/tools        # look only: the table is written when all were tried

A test becomes a row by ``@pytest.mark.fault(area, injected, outcome)``. The inputs tried are counted as they run: cases
of a parametrised test, examples of a property test.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import markdown

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "faults.md"
HEADER = """# Faults injected, and what happened

Written by `python -m benchmarks.faults`; a test with the mark `fault` is a row. Inputs tried are cases of the test, or
examples that were drawn for it (from a seed that pytest prints first; `--hypothesis-seed=N` repeats a run).
"""
CASES = "<!-- cases"
"""Beginning of the part of the page that is kept by hand."""
COLUMNS = ("injected", "what happens", "inputs tried", "tests")


@dataclasses.dataclass
class Row:
    """One fault.

    Attributes:
        area, injected, outcome: what the mark says.
        test: where it is.
        tried: inputs that the outcome was seen for.
        skipped: why some were not tried here.
    """

    area: str
    injected: str
    outcome: str
    test: str
    tried: int = 0
    skipped: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the row as the table shows it."""
        tried = f"{self.tried:,}" if self.tried else f"none here: {self.skipped}"
        return self.injected, self.outcome, tried, f"`{self.test.partition('::')[0]}`"


class FaultTable:
    """A pytest plugin that collects the rows."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._examples: dict[str, int] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Count the examples of property tests as they run."""
        for item in items:
            mark = item.get_closest_marker("fault")
            if mark is None:
                continue
            name = item.nodeid.partition("[")[0]
            self.rows.setdefault(name, Row(*mark.args, test=name))
            handle = getattr(getattr(item, "obj", None), "hypothesis", None)
            if handle is not None:
                handle.inner_test = self._counted(handle.inner_test, name)

    def _counted(self, test: Any, name: str) -> Any:
        if getattr(test, "counted", False):  # another case of the same function
            return test

        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._examples[name] = self._examples.get(name, 0) + 1
            return test(*args, **kwargs)

        counted.counted = True  # type: ignore[attr-defined]
        return counted

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a case that passed, note one that was skipped."""
        row = self.rows.get(report.nodeid.partition("[")[0])
        if row is None:
            return
        if report.skipped:
            row.skipped = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        elif report.when == "call" and report.passed:
            row.tried = self._examples.get(row.test, row.tried + 1)

    def text(self) -> str:
        """The page."""
        rows = sorted(self.rows.values(), key=lambda row: (row.area, row.test))
        parts = [
            f"\n## {area}\n\n{markdown.table([dict(zip(COLUMNS, row.cells(), strict=True)) for row in found])}\n"
            for area, found in itertools.groupby(rows, key=lambda row: row.area)
        ]
        return HEADER + "".join(parts)


def main(arguments: list[str]) -> int:
    """Run the marked tests; returns pytest's exit code."""
    table = FaultTable()
    everything = not any(not argument.startswith("-") and (ROOT / argument).exists() for argument in arguments)
    chosen = arguments if "-m" in arguments else ["-m", "fault and not e2e", *arguments]
    code = int(pytest.main([f"--rootdir={ROOT}", *chosen, *([str(ROOT / "tests")] if everything else [])], [table]))
    if code == 0 and everything:
        cases = TABLE.read_text(encoding="utf-8").partition(CASES)
        TABLE.write_text(table.text() + "\n" + "".join(cases[1:]), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
