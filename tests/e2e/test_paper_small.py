"""The paper's setting end to end: data, retriever server, recipe, evaluation, by the one script that shows them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.assets.qa_data import real_data
from verl_atpo.report.metrics_file import read_steps

ROOT = Path(__file__).parents[2]


@pytest.mark.e2e
def test_from_questions_to_the_table(tmp_path):
    data = {name: str(real_data(f"multihop_mini_{name.lower()}.jsonl")) for name in ("QUESTIONS", "CORPUS")}
    run = subprocess.run(
        ["bash", "examples/paper_small/run.sh"],
        cwd=ROOT,
        env={**os.environ, "OUT": str(tmp_path), **data},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]

    steps = read_steps(tmp_path / "train.jsonl")
    assert [step for step, _ in steps] == [1, 2]
    for _, data in steps:
        assert (data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/trees_failed"]) == (4, 22, 0)
        assert data["atpo/tool_calls"] > 0  # the model searches, and the real server answers
        assert data["atpo/tool_outages"] == data["atpo/tool_errors"] == data["atpo/replays_diverged"] == 0
        assert data["atpo/depth/mean"] > 1
        assert data["actor/grad_norm"] > 0

    table = json.loads((tmp_path / "evaluation" / "table.json").read_text())
    assert {name: each["questions"] for name, each in table["benchmarks"].items()} == {
        "hotpotqa": 19,
        "2wikimultihopqa": 13,
        "musique": 14,
    }
    assert "multi-hop, mean of questions" in table["averages"]
    assert f"actor_rollout_ref.model.path={tmp_path}/model" in table["settings"]["overrides"]
    assert (tmp_path / "evaluation" / "table.md").read_text() in run.stdout
