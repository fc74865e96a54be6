"""The lines of docs/gpu.md resolve as the page says; `RESOLVE=1` resolves them with everything that they bring."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.assets.python_path import ROOT

PAGE = (ROOT / "docs" / "gpu.md").read_text()
LINE = "verl[vllm]==0.9.1"
"""What the extra `gpu` asks for (tests/install/test_requirements.py)."""


def resolved(line: str, python: str, folder: Path, *options: str) -> list[dict[str, Any]]:
    """What pip would install for a Python, from wheels alone; skips without an index."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", *options]
    command += ["--report", str(report), "--only-binary", ":all:", "--python-version", python, "--target", str(folder)]
    try:
        done = subprocess.run([*command, line], capture_output=True, text=True, timeout=1500 if not options else 240)
    except subprocess.TimeoutExpired:
        pytest.skip("the index answers too slowly")
    if done.returncode and re.search(r"No matching distribution|connection|timed out", done.stderr, re.IGNORECASE):
        pytest.skip("no index with verl")
    assert done.returncode == 0, done.stderr[-3000:]
    return [each["metadata"] for each in json.loads(report.read_text())["install"]]


def test_the_page_names_the_extra_and_what_it_brings():
    assert '"verl-atpo[gpu] @ git+$REPO"' in PAGE
    assert "verl 0.9.1 brings vLLM 0.24 and torch 2.11" in PAGE


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_verls_extra_is_there_and_brings_no_flash_attention(python, tmp_path):
    (verl,) = resolved(LINE, python, tmp_path, "--no-deps")
    assert verl["version"] == "0.9.1"
    extra = [each for each in verl["requires_dist"] if re.search(r"extra == ['\"]vllm['\"]", each)]
    assert any(re.match(r"vllm\W*==\W*0\.24\.0", each) for each in extra), extra
    assert not any("flash" in each for each in extra)


@pytest.mark.skipif(not os.environ.get("RESOLVE"), reason="minutes long: RESOLVE=1")
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_everything_resolves(python, tmp_path):
    versions = {each["name"].lower(): each["version"] for each in resolved(LINE, python, tmp_path)}
    assert (versions["torch"], versions["vllm"], versions["transformers"]) == ("2.11.0", "0.24.0", "5.9.0")
    assert "transferqueue" in versions and "flash-attn" not in versions
