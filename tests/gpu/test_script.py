"""Verdicts and exit codes of tests/gpu.sh, with a Python that does as it is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.assets.python_path import ROOT


def verdicts(python: str | Path, *arguments: str) -> tuple[int, list[str]]:
    environment = {**os.environ, "PYTHON": str(python)}
    command = ["bash", "tests/gpu.sh", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("stage ")]


def a_python(folder: Path, body: str) -> Path:
    file = folder / "python"
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)
    return file


def test_what_is_not_installed_is_not_proven():
    code, found = verdicts("false")
    assert code == 3 and len(found) == 3
    assert found[2] == "stage 2: NOT PROVEN: not installed: one of torch transformers verl pytest vllm"


def test_all_stages_pass_where_everything_does():
    assert verdicts("true") == (0, ["stage 0: PASSED", "stage 1: PASSED", "stage 2: PASSED"])


def test_a_rehearsal_proves_nothing_about_a_device():
    code, found = verdicts("true", "--rehearse")
    assert code == 3 and found == [f"stage {stage}: NOT PROVEN: rehearsed without a device" for stage in range(3)]


def test_a_device_that_is_not_there_is_not_proven(tmp_path):
    python = a_python(tmp_path, "[[ $2 != *cuda* ]]")
    code, found = verdicts(python, "--stages", "0")
    assert (code, found) == (3, ["stage 0: NOT PROVEN: torch sees no CUDA device"])


@pytest.mark.parametrize("arguments", [(), ("--rehearse",)])
def test_a_failing_command_fails_its_stage_whatever_else_is_not_proven(tmp_path, arguments):
    python = a_python(tmp_path, '[[ $1 == -c && "$*" != *vllm* ]]')  # nothing but -c works, and there is no vLLM
    code, found = verdicts(python, *arguments)
    assert code == 1
    assert found[0].startswith("stage 0: FAILED: ") and found[2].startswith("stage 2: NOT PROVEN: not installed")


def test_an_unknown_argument_is_refused():
    assert verdicts("true", "--fast")[0] == 2
