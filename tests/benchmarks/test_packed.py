"""The benchmark of packed rows: its batches, and a small run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.packed.runs import TASKS, arguments, row
from tests.assets.packed_batches import BATCHES, LEAVES, fitting_scale, make_batch
from tests.assets.python_path import PYTHON_PATH, ROOT


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


@pytest.mark.parametrize("most", [5_000, 20_000])
def test_a_batch_is_scaled_to_what_a_model_can_take(most):
    shape = BATCHES["paper's trees"]
    scale = fitting_scale(shape, 0, most)
    assert sum(map(len, make_batch(shape, 0, 50, scale).whole())) == pytest.approx(
        most, rel=0.25
    )  # lengths are drawn anew
    assert fitting_scale(shape, 0, 10**6) == 1


def test_times_of_real_runs_are_told_with_the_tokens_they_are_for():
    # Steps of 3, 4 and 100 s for 1,000, 4,000 and 10,000 tokens: 3, 1 and 10 s a 1,000. A fifth of them is distinct.
    steps = {
        "reward": [0.25, 0.5, 0.75], "row_tokens": [1000, 4000, 10_000], "update_actor_s": [3, 4, 100],
        "old_log_prob_s": [1, 1, 1], "step_s": [10, 20, 30], "distinct_tokens": [500, 500, 2000],
    }  # fmt: skip
    found = row("task", "packed", steps)
    assert (found["reward"], found["row_tokens"], found["steps"]) == (0.5, 5000, 3)
    assert (found["update_actor_s"], found["update_actor_s per 1,000"]) == (4, 3)
    assert (found["old_log_prob_s per 1,000"], found["rows over distinct"]) == (0.25, "5.00")
    assert row("task", "rows", {**steps, "distinct_tokens": [None, None, None]})["rows over distinct"] == ""


@pytest.mark.parametrize("name", TASKS)
def test_runs_of_a_task_differ_in_packing_alone(name, tmp_path):
    found = arguments(TASKS[name], tmp_path, seed=3)
    assert f"data.train_files={tmp_path}/train.parquet" in found
    assert found[-3:] == ["trainer.val_before_train=False", "trainer.test_freq=-1", "trainer.save_freq=-1"]
    assert {"+atpo=tree", "data.seed=3", f"trainer.total_training_steps={TASKS[name].steps}"} < set(found)
    assert not [argument for argument in found if "packed" in argument]


def test_a_small_run(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.packed", "--models", "0.2M", "--repeats", "1"]
    command += ["--batches", "paper's trees", "--scale", "0.02", "--seed", "7", "--out", str(tmp_path / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHON_PATH}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    forward, update = json.loads((tmp_path / "out.json").read_text())["results"]
    assert (forward["mode"], update["mode"]) == ("forward", "update")
    for line in (forward, update):
        assert (line["model"], line["batch"]) == ("0.2M", "paper's trees")
        assert line["distinct_tokens"] == line["run_tokens"] < line["rows_tokens"]
        assert min(line[f"{what}_{whose}"] for what in ("seconds", "peak") for whose in ("verl", "packed")) >= 0
        assert line["faster_cpu_unpadded"] > 0 and line["max_error"] < 1e-4
        assert 0 < line["trie_cpu_seconds"] < line["cpu_seconds_packed"]
        assert line["calls"] == 2
