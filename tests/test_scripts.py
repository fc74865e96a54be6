"""Every shipped shell script and YAML file parses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def shipped(pattern: str) -> list[Path]:
    tracked = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in tracked.stdout.splitlines()]


SCRIPTS, YAMLS = [*shipped("*.sh"), ROOT / ".ci" / "run"], shipped("*.yaml")


def test_there_is_something_to_parse():
    assert len(SCRIPTS) >= 4 and len(YAMLS) >= 1


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_shell_scripts_parse_and_stop_at_errors(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text() or "set -xeuo pipefail" in script.read_text()


@pytest.mark.parametrize("file", YAMLS, ids=str)
def test_yaml_files_parse(file):
    assert yaml.safe_load(file.read_text())
