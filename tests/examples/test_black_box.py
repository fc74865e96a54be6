"""The black-box example: its agents at the endpoint, the context of its tiny model, its repository and its reward."""

from __future__ import annotations

import json
import random
import sys

import pandas as pd
import pytest

from examples.black_box import prepare, reward
from examples.black_box.chat import RepairChat, build_tokenizer
from examples.black_box.demos import Demonstrator, make_demos
from examples.black_box.prepare import write_data
from examples.black_box.repository import PASSED, TOOLS, Repository
from examples.black_box.results import read_rows, row, table
from examples.black_box.tasks import FAULTS, Repair, draw
from tests.assets.run_scripts import ROOT, main_ppo_arguments, settings_of
from verl_atpo.gateway.rehearsal import AgentRehearsal

FILES = {"cache": {"PORT": 11, "LIMIT": 12}, "queue": {"DEPTH": 13, "LEVEL": 14}}
TASK = Repair(FILES, {"queue": {"DEPTH": 20}, "cache": {"PORT": 21}})
SETTINGS = {
    "openai_client": {"agent": "examples.black_box.openai_client:solve"},
    "agents_sdk": {"agent": "examples.black_box.agents_sdk:solve"},
    "program": {"command": [sys.executable, "-S", "-m", "examples.black_box.program"]},
}


@pytest.fixture(scope="module")
def chat() -> RepairChat:
    return RepairChat(build_tokenizer())


def turns(chat: RepairChat) -> list[list[int]]:
    """The turns that repair TASK."""
    return [
        chat.check(),
        chat.find("DEPTH"),
        chat.edit("queue", "DEPTH = 20"),
        chat.check(),
        chat.find("PORT"),
        chat.edit("cache", "PORT = 21"),
        chat.check(),
        chat.done(),
    ]


@pytest.mark.parametrize("agent", SETTINGS)
async def test_an_agent_repairs_and_is_replayed_at_every_call(agent, chat, monkeypatch) -> None:
    """One row, token for token what the warm start shows; the reward function finds the repaired files."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    answers = [chat.decode(turn[:-1]) for turn in turns(chat)]
    row = TASK.row(0)
    rehearsal = AgentRehearsal(chat.tokenizer, SETTINGS[agent], model_type="qwen3")
    found = await rehearsal.rehearse({**row, "raw_prompt": row["prompt"]}, answers)
    assert found.divergences == {}
    assert len(found.calls) == len(answers)
    (output,) = found.rows
    assert output.extra_fields["agent_crash"] is None and output.extra_fields["agent_edits"] == {}
    demo = Demonstrator(chat, TASK, random.Random(0), care=1.0, haste=0.0).demonstrate()
    assert output.prompt_ids + output.response_ids == list(demo.ids)
    assert output.response_mask == [int(own) for own in demo.sampled][len(output.prompt_ids) :]
    score = reward.compute_score("", "", row["reward_model"]["ground_truth"], output.extra_fields)
    assert score == {"score": 1.0, "acc": 1.0, "calls": 8.0}


@pytest.mark.parametrize("agent", SETTINGS)
async def test_an_agent_survives_its_models_mistakes(agent, chat, monkeypatch) -> None:
    """A tool that is not there, an argument that is missing, a model that never ends: scored, no crash."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    wrong = '<tool_call>\n{"name": "find", "arguments": {"file": "cache"}}\n</tool_call>'
    row = TASK.row(0)
    rehearsal = AgentRehearsal(chat.tokenizer, SETTINGS[agent], model_type="qwen3")
    unknown = '<tool_call>\n{"name": "fly", "arguments": {}}\n</tool_call>'
    for answers, calls in (([wrong], 8), ([wrong, unknown], None)):
        found = await rehearsal.rehearse({**row, "raw_prompt": row["prompt"]}, answers)
        fields = found.rows[-1].extra_fields
        assert fields["agent_crash"] is None
        assert calls in (None, fields["agent_calls"])
        assert reward.compute_score("", "", row["reward_model"]["ground_truth"], fields)["score"] == 0.0


def test_the_tools_by_hand() -> None:
    row = TASK.row(0)
    with Repository(row["extra_info"]) as repository:
        folder = repository.folder
        assert repository.check() == "DEPTH = 20"
        assert repository.find("DEPTH") == "queue" and repository.find("SHARDS") == "nowhere"
        assert repository.edit("queue", "DEPTH = 20") == "edited"
        assert repository.check() == "PORT = 21"
        assert repository.edit("queue", "PORT = 21") == "no such line"
        assert repository.edit("moon", "PORT = 21") == "no such file"
        assert repository.edit("../checks.sh", "PORT = 21") == "no such file"
        assert repository.call("edit", '{"file": "cache", "line": "PORT = 21"}') == "edited"
        assert repository.call("check", "{}") == PASSED
        assert repository.call("check", "[]") == "error TypeError"
        assert repository.call("fly", "{}") == "error KeyError"
        assert repository.files() == {"cache": "PORT = 21\nLIMIT = 12\n", "queue": "DEPTH = 20\nLEVEL = 14\n"}
        assert repository.files() == TASK.repaired == json.loads(row["reward_model"]["ground_truth"])
    assert not folder.exists()
    assert {tool["function"]["name"] for tool in TOOLS} == {"check", "find", "edit"}


@pytest.mark.parametrize(
    ("result", "score"),
    [
        ({"files": TASK.repaired}, 1.0),
        ({"files": TASK.texts}, 0.0),
        ({"files": {**TASK.repaired, "cache": "PORT = 21\nLIMIT = 13\n"}}, 0.0),  # something else was changed
        (None, 0.0),  # crashed
    ],
)
def test_the_reward(result, score) -> None:
    truth = TASK.row(0)["reward_model"]["ground_truth"]
    found = reward.compute_score("black_box_2", "done", truth, {"agent_result": result, "agent_calls": 3})
    assert found == {"score": score, "acc": score, "calls": 3.0}


def test_the_demonstrator_is_careless_and_fits(chat) -> None:
    run = settings_of("black_box")
    demos = list(make_demos(chat, 400, 0))
    longest = int(run["data.max_prompt_length"]) + int(run["data.max_response_length"])
    assert max(len(demo.ids) for demo in demos) <= longest == int(run["actor_rollout_ref.rollout.max_model_len"])
    share = sum(f" {PASSED}" in chat.decode(list(demo.ids)) for demo in demos) / len(demos)
    assert 0.3 < share < 0.6


def test_its_data(tmp_path) -> None:
    write_data(tmp_path, 0)
    train, val = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("train", "val"))
    assert set(val.data_source) == {"black_box_1", "black_box_2"}
    files = [set(frame.extra_info.map(lambda info: info["files"])) for frame in (train, val)]
    assert not files[0] & files[1]
    for faults in FAULTS:
        task = draw(random.Random(1), faults)
        changed = [file for file in task.files if task.texts[file] != task.repaired[file]]
        assert len(changed) == len(task.lines) == faults


@pytest.mark.parametrize("agent", SETTINGS)
def test_its_script_names_the_agent(agent, tmp_path) -> None:
    arguments = main_ppo_arguments("black_box", AGENT=agent, OUT=str(tmp_path))
    named = [argument for argument in arguments if "rollout.custom.gateway" in argument]
    assert len(named) == 1 and agent in named[0]
    assert {"+agent=gateway", "+train=packed", "+atpo=tree"} <= set(arguments)


def metrics(score: float | None = None, **accuracy: float) -> dict[str, float]:
    """A step's metrics; accuracy by number of faults."""
    named = {f"val-core/black_box_{faults[-1]}/acc/mean@1": share for faults, share in accuracy.items()}
    return named if score is None else {"critic/score/mean": score, **named}


def test_the_table_of_runs_by_hand(tmp_path) -> None:
    for seed, after in ((1, 0.75), (0, 0.85)):
        folder = tmp_path / f"black_box_program_seed{seed}"
        folder.mkdir()
        steps = [metrics(f1=0.5, f2=0.25), metrics(0.4), metrics(0.6, f1=after, f2=0.5)]
        lines = [json.dumps({"step": step, "data": data}) + "\n" for step, data in enumerate(steps)]
        (folder / "metrics_1.jsonl").write_text("".join(lines))
    found = table(read_rows([tmp_path / "black_box_program_seed1", tmp_path / "black_box_program_seed0"]))
    assert found.splitlines() == [
        "| agent | seed | steps | one fault, before | one fault, after | two faults, before | two faults, after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| program | 0 | 2 | 50 % | 85 % | 25 % | 50 % |",
        "| program | 1 | 2 | 50 % | 75 % | 25 % | 50 % |",
        "| mean |  |  | 50 % | 80 % | 25 % | 50 % |",
    ]


def test_a_run_that_has_not_ended_has_no_row(tmp_path) -> None:
    with pytest.raises(ValueError, match="program, seed 0: no validation at step 0 and step 1"):
        row("program", 0, [(0, metrics(f1=0.5, f2=0.2)), (1, metrics(0.4))])
    with pytest.raises(ValueError, match="expected black_box_AGENT_seedN"):
        read_rows([tmp_path / "elsewhere"])


@pytest.mark.parametrize("losses", [[0.21], [0.28, 0.2], [0.28, 0.27]])
def test_a_warm_start_that_does_not_learn_is_tried_again_slower(losses, tmp_path, monkeypatch) -> None:
    rates, given = [], iter(losses)
    monkeypatch.setattr(prepare, "imitate", lambda *args: rates.append(args[-1].learning_rate) or next(given))
    if losses[-1] < prepare.LEARNED:
        prepare.write_model(tmp_path, 0, 4)
    else:
        with pytest.raises(RuntimeError, match="seed 0 with 4 demonstrations does not learn"):
            prepare.write_model(tmp_path, 0, 4)
    assert rates == [0.012, 0.006][: len(losses)]
    assert (tmp_path / "model.safetensors").exists() == (losses[-1] < prepare.LEARNED)
