"""Tables of runs: appended once, read in order, joined from files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import runs

FIRST = {"task": "hopqa", "arm": "tree_4", "world": 1, "seed": 0, "curve": [1]}
SECOND = {"task": "hopqa", "arm": "grpo", "world": 1, "seed": 0, "curve": [2]}


def test_runs_are_appended_and_read_by_key(tmp_path: Path) -> None:
    table = tmp_path / "new" / "lab.jsonl"
    assert runs.read(table) == []
    runs.append(table, FIRST)
    runs.append(table, SECOND)
    assert table.read_text().splitlines() == [json.dumps(FIRST), json.dumps(SECOND)]
    assert runs.read(table) == [SECOND, FIRST]
    assert runs.find(table, task="hopqa", arm="tree_4", world=1, seed=0) == FIRST
    assert runs.find(table, task="hopqa", arm="tree_4", world=2, seed=0) is None


def test_a_run_is_there_once(tmp_path: Path) -> None:
    table = tmp_path / "learning.jsonl"
    runs.append(table, {"arm": "grpo", "seed": 3})
    runs.append(table, {"arm": "grpo", "seed": 4})
    with pytest.raises(ValueError, match="already"):
        runs.append(table, {"arm": "grpo", "seed": 3, "seconds": 1.0})
    assert len(runs.read(table)) == 2


def test_files_of_runs_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, run in enumerate((FIRST, SECOND)):
        (tmp_path / f"{number}.json").write_text(json.dumps(run))
    files = [str(tmp_path / f"{number}.json") for number in (0, 1)]
    monkeypatch.setattr(sys, "argv", ["runs", str(tmp_path / "lab.jsonl"), *files])
    runs.main()
    assert runs.read(tmp_path / "lab.jsonl") == [SECOND, FIRST]
