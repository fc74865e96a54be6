"""The README's lines that get the package, run to the letter (but for its requirements, which are here already)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = re.findall(r"^    (\S.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)


def line(start: str) -> str:
    (found,) = [each for each in LINES if each.startswith(start)]
    return found


def run(command: str, folder: Path, **variables: str) -> None:
    there = {"REPO": f"file://{ROOT}", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment = {**os.environ, **there, **variables}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    run(line("git clone"), tmp_path)
    return tmp_path / "verl_atpo"


def test_a_clone_has_the_scripts_that_are_named_next(clone: Path):
    scripts = [each.split()[1] for each in LINES if each.startswith("bash ")]
    assert len(scripts) == 2
    for script in scripts:
        assert (clone / script).is_file()


@pytest.mark.parametrize("way", ["git", "wheel"])
def test_both_ways_of_installing_it_work(way: str, clone: Path, tmp_path: Path):
    command, wheel = (line(start).partition("#")[0] for start in ("pip install", "pip wheel"))
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_TARGET": str(tmp_path / "site")}
    run(command if way == "git" else wheel, clone, **offline)
    here = {"PYTHONPATH": str(tmp_path / "site")}
    run(f"python -c \"import verl_atpo; assert verl_atpo.__file__.startswith('{tmp_path}')\"", tmp_path, **here)
