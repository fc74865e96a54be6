"""The ReAct example: its loop in trees and chains, its tools, and the context that its tiny model was shown."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from transformers import AutoTokenizer
from verl.workers.rollout.replica import TokenOutput

from examples.react import prepare, reward
from examples.react.prepare import ReActChat, demonstration, game
from tests.assets.worker import Queue, make_worker, prompt
from verl_atpo import try_tool
from verl_atpo.tools.making import make_tools
from verl_atpo.tools.row import without_nulls

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "react"
TRAIN = {"validate": False, "step": 1, "sample_index": 0, "rollout_n": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("react")
    prepare.main(["--out", str(out), "--demos", "64"])
    return out


class Player:
    """An engine that plays by the book or forgets, in tokens of the example's model."""

    def __init__(self, chat: ReActChat, task: dict[str, Any]) -> None:
        self._chat, self._task, self._rng = chat, task, random.Random(0)
        self.asked: list[str] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        self.asked.append(self._chat.decode(prompt_ids, skip_special_tokens=True))
        turn, wanted = self.asked[-1].count("Observation:"), self._task["wanted"]
        actions = [("where", wanted), ("go", self._task["places"][wanted]), ("take", wanted), ("fly", "moon")]
        tool, value = actions[turn] if turn < 3 and self._rng.random() < 0.8 else self._rng.choice(actions)
        text = f'Action: {tool} {{"{"room" if tool == "go" else "thing"}": "{value}"}}<|im_end|>'
        tokens = self._chat.act(tool, value) if tool != "fly" else self._chat.encode(text)
        fields = {"min_global_steps": 1, "max_global_steps": 1}
        return TokenOutput(token_ids=tokens, log_probs=[-self._rng.random() for _ in tokens], extra_fields=fields)


SCORED: list[dict[str, Any]] = []


async def score(data: Any) -> dict[str, Any]:
    SCORED.append(data.non_tensor_batch["tool_extra_fields"][0])
    return {"reward_score": float(max(SCORED[-1]["tool_rewards"] or [0.0])), "reward_extra_info": {}}


@pytest.mark.parametrize("validate", [False, True], ids=["tree", "validation"])
async def test_the_loop_plays_in_trees_and_chains(folder, monkeypatch, validate: bool) -> None:
    SCORED.clear()
    chat = ReActChat(AutoTokenizer.from_pretrained(folder / "model"))
    row = pd.read_parquet(folder / "train.parquet").iloc[0]
    task = without_nulls(row.extra_info["tools_kwargs"])["house"]["create_kwargs"]
    queue, engine = Queue(monkeypatch), Player(chat, task)
    monkeypatch.chdir(ROOT)
    worker = make_worker(
        folder / "model",
        "react",
        "actor_rollout_ref.rollout.agent.agent_loop_config_path=examples/react/loop.yaml",
        "actor_rollout_ref.rollout.multi_turn.tool_config_path=examples/react/tools.yaml",
        "actor_rollout_ref.rollout.multi_turn.max_assistant_turns=6",
        "actor_rollout_ref.rollout.val_kwargs.n=7",
        "algorithm.atpo.expansion.initial_chains=6",
        client=engine,
    )
    worker.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=score))]
    fields = {"raw_prompt": list(row.prompt), "tools_kwargs": row.extra_info["tools_kwargs"]}
    await worker._run_prompt(prompt("p1", "react", **fields), {}, trajectory={**TRAIN, "validate": validate})
    failures = await worker.failures()
    assert failures.bug is None and queue.status == {"p1": "finished"} and len(queue.rows["p1"]) == 7, failures
    assert not any("found" in asked for asked in engine.asked)  # the episode was over
    assert any("Observation: Unknown function 'fly'" in asked for asked in engine.asked)
    assert {max(each["tool_rewards"] or [0.0]) for each in SCORED} >= {1.0}
    counts = worker.guard.take_totals()
    assert counts.states_opened == counts.states_closed > 0 and counts.errors > 0


async def test_the_context_is_the_one_of_the_demonstrations(folder, monkeypatch) -> None:
    """verl's continuation of the context and the warm start agree, token for token."""
    chat = ReActChat(AutoTokenizer.from_pretrained(folder / "model"))
    rng = random.Random(3)
    task = game(random.Random(3))
    demo = demonstration(chat, rng)
    turns: list[list[int]] = []
    for token, own in zip(demo.ids, demo.sampled, strict=True):
        if own:
            turns.append([*(turns.pop() if turns and turns[-1][-1:] != [chat.encode("<|im_end|>")[0]] else []), token])

    class Repeated:
        def __init__(self) -> None:
            self.asked: list[list[int]] = []

        async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
            self.asked.append(list(prompt_ids))
            tokens = turns[len(self.asked) - 1]
            return TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), extra_fields={})

    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from examples.react.loop import ReActLoop

    monkeypatch.chdir(ROOT)
    Queue(monkeypatch)
    loops = "actor_rollout_ref.rollout.agent.agent_loop_config_path=examples/react/loop.yaml"
    worker = make_worker(folder / "model", "react", loops, "actor_rollout_ref.rollout.multi_turn.max_assistant_turns=6")
    engine = Repeated()
    loop = ReActLoop(
        DictConfigWrap(worker.config),
        engine,
        worker.tokenizer,
        None,
        RLHFDataset,
        DictConfigWrap(worker.config.data),
        hf_model_type=worker.hf_model_type,
        tools=ToolListWrap(make_tools(str(EXAMPLE / "tools.yaml"), None)),
    )
    asked = [{"role": "user", "content": prepare.question(task["wanted"])}]
    row = {"raw_prompt": asked, "tools_kwargs": {"house": {"create_kwargs": task}}}
    output = await loop.run({}, **row)
    assert list(demo.ids[: len(output.prompt_ids)]) == output.prompt_ids
    assert len(engine.asked) == len(turns) > 2
    for context in engine.asked:
        assert list(demo.ids[: len(context)]) == context


def test_the_reward_counts_under_any_sampler() -> None:
    call = 'Action: go {"room": "attic"}'
    assert reward.compute_score(
        "react", call, "lamp", {"tool_rewards": [0.0, 1.0], "policy_text": f"{call}\n{call}"}
    ) == {
        "score": 1.0,
        "acc": 1.0,
        "asked": 2.0,
    }
    ours = {"tool_rewards": [0.0, 1.0], "policy_text": f"{call}\n{call}"}
    assert reward.compute_score("react", call, "lamp", ours) == {"score": 1.0, "acc": 1.0, "asked": 2.0}
    assert reward.compute_score("react", call, "lamp", {}) == {"score": 0.0, "acc": 0.0, "asked": 1.0}


def test_the_tools_are_rehearsed_on_a_row_of_the_data(folder, capsys, monkeypatch) -> None:
    row = pd.read_parquet(folder / "val.parquet").iloc[3]
    task = row.extra_info["tools_kwargs"]["house"]["create_kwargs"]
    room, wanted = task["places"][task["wanted"]], task["wanted"]
    calls = [f"where thing={wanted}", f"go room={room}", "go room=moon", f"take thing={wanted}"]
    arguments = [part for call in calls for part in ("--call", call)]
    code = try_tool.main(["examples.react.house.House", "--row", f"{folder}/val.parquet:3", *arguments])
    said = capsys.readouterr().out
    assert code == 0 and "branches by fork: 4 calls" in said and "no such room" in said
    assert "The tool ended the episode." in said


def test_its_command_composes(folder, monkeypatch) -> None:
    from hydra import compose, initialize_config_module

    from verl_atpo.startup.checks import check_config

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    (command,) = re.findall(r"main_ppo (.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    words = shlex.split(command.replace("\\\n", " ").replace("$OUT", str(folder)))
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=words)
    check_config(config)
    assert Path(config.reward.custom_reward_function.path).is_file()


def test_its_files_name_what_is_there() -> None:
    (entry,) = yaml.safe_load((EXAMPLE / "loop.yaml").read_text())
    assert entry["name"] == "react"
    assert [tool.name for tool in make_tools(str(EXAMPLE / "tools.yaml"), None)] == ["where", "go", "take"]
