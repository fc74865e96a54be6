"""Who imports whom: a task uses the kit and nothing of another task; the kit uses no task."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/__init__.py"))
MEASURED = {"lab": {"hopqa", "text_world"}, "learning": {"hopqa"}, "smollm2.py": {"smollm2"}}
"""Benchmark -> the tasks that it measures."""


def imported(file: Path) -> Iterator[str]:
    """The full names of what a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def examples_used(files: list[Path]) -> set[str]:
    """The folders and modules of `examples` that files import from."""
    assert files
    names = [name.split(".") for file in files for name in imported(file)]
    return {name[1] for name in names if name[0] == "examples"}


@pytest.mark.parametrize("task", EXAMPLES, ids=lambda path: path.name)
def test_an_example_uses_itself_and_the_kit(task: Path) -> None:
    allowed = {"kit"} if task.name == "kit" else {task.name, "kit"}
    files = list(task.rglob("*.py"))
    assert examples_used(files) <= allowed
    assert not {name.split(".")[0] for file in files for name in imported(file)} & {"tests", "benchmarks"}


def test_there_are_examples() -> None:
    assert {"kit", "hopqa", "smollm2"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("benchmark", sorted((ROOT / "benchmarks").glob("[a-z]*")), ids=lambda path: path.name)
def test_a_benchmark_uses_the_kit_and_the_task_it_measures(benchmark: Path) -> None:
    files = list(benchmark.rglob("*.py")) if benchmark.is_dir() else [benchmark]
    if benchmark.name == "results":
        assert not files
        return
    assert examples_used(files) <= {"kit", *MEASURED.get(benchmark.name, set())}
    of_tests = {name for file in files for name in imported(file) if name.split(".")[0] == "tests"}
    assert {name for name in of_tests if not name.startswith("tests.assets.")} == set()  # oracles and simulated parts
