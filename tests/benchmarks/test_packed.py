"""The benchmark of packed rows: its batches, and a small run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.packed.batches import BATCHES, LEAVES, make_batch
from tests.assets.main_ppo import ROOT


@pytest.mark.parametrize("name", BATCHES)
def test_batches_have_the_papers_lengths(name):
    shape = BATCHES[name]
    rows = make_batch(shape, seed=0, vocabulary=50)
    assert len(rows.uids) == LEAVES
    assert {len(prompt) for prompt in rows.prompts} == {shape.prompt}
    for response, mask in zip(rows.responses, rows.masks, strict=True):
        assert len(response) == len(mask)
        flags = "".join(map(str, mask))
        sampled, observed = flags.replace("0", " ").split(), flags.replace("1", " ").split()
        assert len(sampled) == len(observed) + 1  # begins and ends with a sampled turn
        assert all(100 <= len(turn) <= 200 for turn in sampled) and all(200 <= len(turn) <= 400 for turn in observed)
    assert make_batch(shape, seed=0, vocabulary=50) == rows != make_batch(shape, seed=1, vocabulary=50)


def test_a_small_run(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.packed", "--models", "0.2M", "--repeats", "1"]
    command += ["--batches", "paper's trees", "--scale", "0.02", "--seed", "7", "--out", str(tmp_path / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    forward, update = json.loads((tmp_path / "out.json").read_text())["results"]
    assert (forward["mode"], update["mode"]) == ("forward", "update")
    for line in (forward, update):
        assert (line["model"], line["batch"]) == ("0.2M", "paper's trees")
        assert line["distinct_tokens"] == line["run_tokens"] < line["rows_tokens"]
        assert min(line[f"{what}_{whose}"] for what in ("seconds", "peak") for whose in ("verl", "packed")) >= 0
        assert line["max_error"] < 1e-4
