"""Lines for people: a step, the time left, the end of a run; files of metrics and of runs that are kept."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time

import pytest
from verl.utils.tracking import Tracking

from verl_atpo.report import console as console_module
from verl_atpo.report.console import Console
from verl_atpo.report.run_file import RunFile, find_run, lives, read_run, start_name, this_start
from verl_atpo.report.step_line import alarm, duration, step_line, validation
from verl_atpo.report.tracking import add_to_tracking, keep_metrics_files
from verl_atpo.watch import watch

STEP = {"training/global_step": 3, "timing_s/step": 5.25, "critic/score/mean": 0.421}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (148, "2 min 28 s"), (3600 + 300, "1 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_step_says_its_time_what_is_left_and_what_was_learned():
    data = {**STEP, "val-core/hop/acc/mean@1": 0.5, "val-core/sum/acc/mean@1": 0.75, "atpo/trees": 8.0}
    assert (
        step_line(3, data, 40, 148) == "step 3/40  5.2 s, 2 min 28 s left  train reward 0.42  validation accuracy 62.5%"
    )
    assert step_line(3, STEP) == "step 3  5.2 s  train reward 0.42"
    assert step_line(3, {}) == "step 3"


def test_a_step_says_its_troubles():
    data = {
        "atpo/equal_rewards_share": 0.25,
        "atpo/tool_errors": 3.0,
        "atpo/tool_calls": 120.0,
        "atpo/trees_failed": 1.0,
    }
    line = step_line(3, {**data, "atpo/useless_steps": 4.0, "atpo/replays_diverged": 2.0})
    for words in (
        "25% of the trees teach nothing",
        "3 of 120 tool calls failed",
        "1 trees failed",
        "2 replays diverged",
    ):
        assert words in line
    assert "ALARM: 4 steps in a row taught nothing" in line
    assert alarm({"atpo/useless_steps": 2.0}) is None and alarm({}) is None


def test_a_validation_without_accuracy_shows_its_reward():
    assert validation({"val-core/game/reward/mean@1": 0.25}) == "reward 0.25"
    assert validation({"val-aux/num_turns/mean": 2}) is None


def followed(monkeypatch, caplog, total: int | None) -> list[str]:
    """Validation before training, then three steps of 10 s."""
    clock = iter([0.0, 0.0, 10.0, 20.0, 30.0, 30.0])
    monkeypatch.setattr(console_module.time, "monotonic", lambda: next(clock))
    console = Console(
        lambda: total, ["about to train", "  begins: at step 1"], ["results: in the log only", "next: view"]
    )
    with caplog.at_level(logging.INFO, "verl_atpo"):
        console.follow(0, {"val-core/hop/acc/mean@1": 0.36})
        console.open()
        console.open()
        for step in (1, 2, 3):
            validated = {"val-core/hop/acc/mean@1": 0.88} if step == 3 else {}
            console.follow(step, {**STEP, "critic/score/mean": step / 10, "atpo/tool_errors": 2.0, **validated})
    return [record.getMessage() for record in caplog.records]


def test_a_run_is_opened_followed_and_closed(monkeypatch, caplog):
    before, opening, first, second, third, end = followed(monkeypatch, caplog, 3)
    assert before == "step 0  validation accuracy 36.0% (before training)"
    assert opening == "about to train\n  begins: at step 1"
    assert "step 1/3" in first and "20 s left" in first
    assert "10 s left" in second and "left" not in third
    assert end.splitlines() == [
        "finished: step 3 after 30 s",
        "  learned: validation accuracy 36.0% at step 0, accuracy 88.0% at the end; "
        "training reward 0.10 at first, 0.30 at last",
        "  trouble: 6 tool calls failed",
        "  results: in the log only",
        "  next: view",
    ]


def test_without_a_number_of_steps_nothing_is_left_and_nothing_ends(monkeypatch, caplog):
    lines = followed(monkeypatch, caplog, None)
    assert len(lines) == 5 and not any("left" in line or "finished" in line for line in lines)


def test_all_that_is_logged_is_followed(monkeypatch, tmp_path):
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    seen = []
    undo = add_to_tracking(lambda: {"atpo/trees": 2.0}, follow=lambda step, data: seen.append((step, dict(data))))
    try:
        tracking = Tracking("p", "e", ["file"])
        tracking.log({"val": 1.0}, 0)
        tracking.log({"training/global_step": 1}, 1)
    finally:
        undo()
    assert seen == [(0, {"val": 1.0}), (1, {"training/global_step": 1, "atpo/trees": 2.0})]


@pytest.mark.parametrize("resumes", [True, False])
def test_what_an_earlier_start_logged_is_kept(monkeypatch, tmp_path, resumes):
    file = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(file))
    earlier = json.dumps({"step": 1, "data": {}}) + "\n"
    file.write_text(earlier)
    (tmp_path / "metrics.jsonl.1").write_text("older")
    undo = keep_metrics_files(resumes)
    try:
        Tracking("p", "e", ["file"]).log({"a": 1}, 2)
    finally:
        undo()
    later = '{"step":2,"data":{"a":1}}\n'
    assert file.read_text() == (earlier + later if resumes else later)
    assert (tmp_path / "metrics.jsonl.1").read_text() == "older"
    assert (tmp_path / "metrics.jsonl.2").exists() is not resumes


def test_starts_are_named_by_time_and_this_one_runs():
    first = start_name(int(1000 * time.time()))
    run = this_start(["main_ppo"], steps=4)
    assert first[:8].isdigit() and len(first) == len(run.start) == 19 and first <= run.start
    assert run.lives and run.state == "running"


def test_a_run_that_ended_or_died_is_told_from_one_that_runs(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run = RunFile("a", process.pid, socket.gethostname(), ["x"], time.time())
    assert run.lives
    process.communicate(b"\n", timeout=60)
    assert not lives(process.pid) and run.lives is False and run.state == "died without a message"
    run.write(tmp_path / "hydra")
    assert find_run(tmp_path) == run
    RunFile("b", 1, "elsewhere", [], time.time() + 1, ended="completed").write(tmp_path / "a" / "b" / "c")
    assert find_run(tmp_path).state == "completed"
    assert RunFile("c", 1, "elsewhere", [], 0.0).lives is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"start": 1}', "null"])
def test_a_file_that_is_no_runs_is_left_alone(tmp_path, content):
    (tmp_path / "atpo_run.json").write_text(content)
    assert read_run(tmp_path / "atpo_run.json") is None and find_run(tmp_path) is None


def test_watch_notices_a_run_that_died(tmp_path, capsys):
    RunFile("a", 2**22 + 1, socket.gethostname(), [], time.time()).write(tmp_path / "hydra")
    assert watch(tmp_path, lambda: True, every_s=0.01) == 0
    assert "the run has ended: died without a message, before the first step" in capsys.readouterr().out
