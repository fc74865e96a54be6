"""What the examples share: stages, demonstrations, the chat format; progress lines, the table, the curve."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from examples.kit import summary
from examples.kit.stages import Stage, run_stages
from verl_atpo.report.metrics_file import accuracies, mean_accuracy, read_steps
from verl_atpo.tiny.chat import ChatFormat
from verl_atpo.tiny.demo import Transcript
from verl_atpo.tiny.model import build_model
from verl_atpo.tiny.training import IGNORED, TrainSettings, collate, imitate
from verl_atpo.watch import line, lives, main, watch

STEPS = [
    {"step": 0, "data": {"val-core/hopqa_1hop/acc/mean@1": 0.5, "val-core/hopqa_2hop/acc/mean@1": 0.25}},
    {"step": 1, "data": {"critic/score/mean": 0.4, "timing_s/step": 7.0}},
    {
        "step": 2,
        "data": {
            "critic/score/mean": 0.6,
            "val-core/hopqa_1hop/acc/mean@1": 1.0,
            "val-core/hopqa_2hop/acc/mean@1": 0.75,
            "val-aux/hopqa_2hop/acc/std@1": 9.0,
        },
    },
]


@pytest.fixture
def metrics(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(step) + "\n" for step in STEPS) + '{"step": 3, "da')
    return file


def test_a_line_still_being_written_is_left_out(metrics, tmp_path):
    assert [step for step, _ in read_steps(metrics)] == [0, 1, 2]
    assert read_steps(tmp_path / "not yet") == []


def test_accuracy_by_source_and_mean():
    assert accuracies(STEPS[2]["data"]) == {"hopqa_1hop": 1.0, "hopqa_2hop": 0.75}
    assert mean_accuracy(STEPS[2]["data"]) == 0.875
    assert mean_accuracy(STEPS[1]["data"]) is None


def test_summary_shows_the_change_and_draws_the_curve(metrics, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["summary", str(metrics.parent), "--title", "HopQA"])
    summary.main()
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["validation", "at", "step", "0", "and", "at", "step", "2"]
    assert rows[2:] == [
        ["1hop", "50.0%", "100.0%", "+50.0"],
        ["2hop", "25.0%", "75.0%", "+50.0"],
        ["mean", "37.5%", "87.5%", "+50.0"],
    ]
    assert metrics.with_name("learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(metrics.with_name("summary.json").read_text())["after"]["hopqa_1hop"] == 1.0


def test_summary_of_a_run_that_goes_on_says_how_far_it_is(metrics):
    with pytest.raises(FileNotFoundError, match="no step of training"):
        metrics.write_text(json.dumps(STEPS[0]) + "\n")
        summary.read_run(metrics.parent)
    metrics.write_text("".join(json.dumps(step) + "\n" for step in STEPS[:2]))
    assert summary.summarise(summary.read_run(metrics.parent), metrics.parent, "") == "step 1, 1 validations so far"


def test_a_step_that_was_done_twice_counts_as_the_later_start_logged_it(tmp_path):
    starts = [[(0, {"v": 0.1}), (1, {"r": 0.2}), (2, {"r": 0.3})], [(2, {"r": 0.4}), (3, {"r": 0.5})]]
    for name, steps in zip("ab", starts, strict=True):
        lines = [json.dumps({"step": step, "data": data}) + "\n" for step, data in steps]
        (tmp_path / name).write_text("".join(lines))
    joined = read_steps(tmp_path / "a", tmp_path / "b")
    assert joined == [(0, {"v": 0.1}), (1, {"r": 0.2}), (2, {"r": 0.4}), (3, {"r": 0.5})]


def test_watch_follows_until_the_process_ends(metrics, capsys):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    watch(metrics, lambda: lives(process.pid), every_s=0.01)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3 and "validation accuracy 37.5%" in shown[0] and "train reward 0.40" in shown[1]
    assert "7.0 s" in line(1, STEPS[1]["data"], 1.0)
    assert lives(os.getpid())


def test_watch_finds_the_steps_of_any_runs_folder(metrics, capsys, tmp_path):
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / "trees-1.jsonl").write_text(json.dumps({"step": 1, "data": {}}) + "\n")
    (tmp_path / "rows.jsonl").write_text('{"uid": 1}\nno json\n')
    assert main([str(tmp_path), "--once"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    metrics.unlink()
    assert main([str(tmp_path), "--once"]) == 1 and "does trainer.logger have `file`" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])


def test_a_stage_that_is_done_is_not_run_again_and_a_folder_keeps_to_its_settings(tmp_path, capsys):
    runs = []

    def make() -> None:
        runs.append(1)
        (tmp_path / "made").touch()

    stages = [Stage("thing", tmp_path / "made", make)]
    run_stages(tmp_path, "seed 0", stages)
    run_stages(tmp_path, "seed 0", stages)
    assert len(runs) == 1 and "thing: already there" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"got seed 1, but .* was made with seed 0; choose another --out"):
        run_stages(tmp_path, "seed 1", stages)


def test_only_what_the_demonstrator_wrote_is_learned():
    transcript = Transcript()
    transcript.read([7, 8])
    transcript.write([9])
    transcript.read([7])
    transcript.write([5, 6])
    short = Transcript([3], [True]).demo()
    ids, labels = collate([transcript.demo(), short], pad_id=0)
    assert ids.tolist() == [[7, 8, 9, 7, 5, 6], [3, 0, 0, 0, 0, 0]]
    assert labels.tolist() == [[IGNORED, IGNORED, 9, IGNORED, 5, 6], [3, *[IGNORED] * 5]]


def test_a_number_is_called_without_quotes_and_in_two_tokens_and_its_own():
    class Guess(ChatFormat):
        tool, argument, quote = "guess", "number", ""

    chat = Guess(Guess.tokenizer_of(["7"]))
    turn = chat.call("", 7)
    assert chat.decode(turn) == '<tool_call>\n{"name": "guess", "arguments": {"number": 7}}\n</tool_call><|im_end|>'
    assert len(turn) == 4 and chat.called(turn) == "7"


def test_a_tool_gets_its_arguments_without_the_space_that_the_tokens_have():
    class Walk(ChatFormat):
        tool, argument = "walk", "direction"

    chat = Walk(Walk.tokenizer_of(["north south", "I go"]))
    turn = chat.call("I go", "north")
    assert '"direction": "north"}' in chat.decode(turn) and chat.called(turn) == "north"
    assert chat.encode(chat.decode(turn)) == turn
    assert chat.encode("north south")[0] == chat.encode("south north")[1]  # the same tokens wherever it stands
    loaded = type(chat.tokenizer)(tokenizer_object=chat.tokenizer.backend_tokenizer)
    assert loaded.decode(turn) == chat.decode(turn)


def test_calls_of_other_tools_and_of_several_arguments_can_be_written():
    chat = ChatFormat(ChatFormat.tokenizer_of(["put cup on shelf"]))
    text = chat.decode(chat.call("", {"thing": "cup", "place": "shelf", "times": 2}, tool="put"))
    (body,) = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    assert json.loads(body) == {"name": "put", "arguments": {"thing": "cup", "place": "shelf", "times": 2}}


def test_training_takes_one_thread_and_gives_the_others_back(capsys):
    chat = ChatFormat(ChatFormat.tokenizer_of(["yes no"]))
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        demos = [Transcript([1, 2, 3], [False, True, True]).demo()] * 4
        settings = TrainSettings(batch_size=4)
        imitate(build_model(chat.tokenizer, 0), demos, 0, lambda text: seen.append(torch.get_num_threads()), settings)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
