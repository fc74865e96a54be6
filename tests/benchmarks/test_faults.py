"""The table of faults: made of marked tests, and none is missing from it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.faults import CASES, ROOT, TABLE, FaultTable

PLANTED = """
import pytest
from hypothesis import given, settings, strategies as st

@pytest.mark.fault("Area", "a case", "holds")
@pytest.mark.parametrize("case", [1, 2, 3])
def test_cases(case): pass

@pytest.mark.fault("Area", "an example", "holds")
@given(number=st.integers())
@settings(max_examples=20, database=None)
def test_examples(number): pass

@pytest.mark.fault("Area", "a fault of another machine", "holds")
def test_skipped(): pytest.skip("no such machine")

def test_other(): pass
"""


def test_inputs_are_counted_as_they_run(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED)
    table = FaultTable()
    assert (
        pytest.main(
            ["-p", "no:cacheprovider", "-q", f"--rootdir={tmp_path}", "-c", "/dev/null", str(tmp_path)], [table]
        )
        == 0
    )
    found = {row.injected: (row.tried, row.skipped) for row in table.rows.values()}
    assert found == {
        "a case": (3, ""),
        "an example": (20, ""),
        "a fault of another machine": (0, "Skipped: no such machine"),
    }
    assert "## Area\n" in table.text() and "| a case | holds | 3 |" in table.text()
    assert "none here: Skipped: no such machine" in table.text()


def marked() -> set[tuple[str, ...]]:
    """Arguments of all marks in the tests."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                found.add(tuple(ast.literal_eval(argument) for argument in node.args))
    return found


def test_every_marked_fault_is_in_the_docs_and_no_other() -> None:
    """Else run ``python -m benchmarks.faults``."""
    found, area = set(), ""
    for line in TABLE.read_text(encoding="utf-8").partition(CASES)[0].splitlines():
        area = line[3:] if line.startswith("## ") else area
        if line.startswith("| ") and area:
            found.add((area, *re.split(r"\s+\|\s+", line.strip("| "))[:2]))
    rows = {row for row in found if row[1] not in ("---", "injected")}
    assert len(rows) > 20
    assert rows == marked()


def test_every_case_names_a_test_that_is_there() -> None:
    text = TABLE.read_text(encoding="utf-8").partition(CASES)[2]
    cases = [line for line in text.splitlines() if line.startswith("| ") and line[:8] not in ("| input ", "| --- | ")]
    named = re.findall(r"\| `(tests/[\w/]+\.py)::(\w+)` \|$", text, re.MULTILINE)
    assert len(named) == len(cases) > 70
    missing = [f"{path}::{name}" for path, name in named if not re.search(rf"def {name}\(", (ROOT / path).read_text())]
    assert missing == []
