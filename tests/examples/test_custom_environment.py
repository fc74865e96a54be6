"""The guide to an environment of one's own, followed to the letter as far as the command that trains."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.tools.tool_registry import load_all_tools
from verl.utils.import_utils import load_extern_object

from tests.assets.fakes import PROMPT, FakeEngine, guard
from verl_atpo import try_tool
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.tools import ToolSession
from verl_atpo.startup.rules.tool_files import check_tool_files
from verl_atpo.tiny.chat import ChatFormat
from verl_atpo.tiny.sampling import sample_turns

GUIDE = Path(__file__).parents[2] / "examples" / "custom_environment" / "README.md"
MOST_LINES = 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files of the guide, as its reader writes them."""
    for language, body in re.findall(r"```(\w+)\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        if language != "bash":
            (tmp_path / body.splitlines()[0].removeprefix("# ")).write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("guess", None)
    importlib.invalidate_caches()


def test_it_is_short(folder):
    files = {file.name: file.read_text().splitlines()[1:] for file in folder.iterdir()}
    assert set(files) == {"guess.py", "guess.yaml", "data.py", "reward.py", "tiny_model.py"}
    files.pop("tiny_model.py")  # for a CPU only
    lines = sum(bool(line.strip()) for lines in files.values() for line in lines)
    assert lines <= MOST_LINES and f"{lines} lines" in GUIDE.read_text()


async def test_the_environment_plays_and_the_reward_counts(folder):
    subprocess.run([sys.executable, "data.py"], check=True)
    row = pd.read_parquet("train.parquet").iloc[8]
    create_kwargs = row.extra_info["tools_kwargs"]["guess"]["create_kwargs"]
    assert create_kwargs == {"secret": 9} and len(pd.read_parquet("val.parquet")) == 150

    (tool,) = load_all_tools("guess.yaml", None)
    assert list(tool.tool_schema.function.parameters.properties) == ["number"]
    session = ReplayClient(FakeEngine(stop=0.0), None)
    async with ToolSession(session, guard()) as tools:
        (bound,) = tools.wrap([tool])
        await session.generate("x", prompt_ids=PROMPT)
        seen = []
        for number in (4, 12, 9):
            instance, _ = await bound.create(create_kwargs=create_kwargs)
            response, _, _ = await bound.execute(instance, {"number": number})
            await bound.release(instance)
            seen.append(response.text)
    assert seen == ["higher", "lower", "found after 3 guesses"]

    score = load_extern_object("reward.py", "compute_score")
    calls = [
        f'<tool_call>{{"name": "guess", "arguments": {{"number": {number}}}}}</tool_call>' for number in (4, 12, 9)
    ]
    assert score("guess", "", 9, {"policy_text": "\n".join(calls)}) == 1.0
    assert score("guess", "", 9, {"policy_text": "\n".join(calls[:2])}) == 0.0
    assert score("guess", "found after 1 guesses", 9, {"policy_text": ""}) == 0.0  # not the model's


def test_the_environment_is_rehearsed_and_the_tiny_model_knows_its_calls(folder, capsys):
    rehearse, _ = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    program, _, arguments = rehearse.partition(" verl_atpo.try_tool ")
    assert program == "python -m" and try_tool.main(shlex.split(arguments)) == 0
    assert "guess branches by replay: 3 calls" in capsys.readouterr().out

    script = Path("tiny_model.py")
    script.write_text(script.read_text().replace("range(4800)", "range(1600)"))  # a third of its training
    subprocess.run([sys.executable, script], check=True, env={**os.environ, "PYTHONPATH": str(GUIDE.parents[2])})
    chat = ChatFormat(AutoTokenizer.from_pretrained("model"))
    chat.tool, chat.argument, chat.quote = "guess", "number", ""
    prompts = [chat.prompt("Guess my number.")] * 32
    turns = sample_turns(AutoModelForCausalLM.from_pretrained("model"), prompts, 1.0)
    numbers = [called for turn in turns if (called := chat.called(turn)) is not None]
    assert len(numbers) > 16 and set(numbers) <= set(map(str, range(1, 16)))


def test_the_command_names_the_files_and_composes(folder):
    from hydra import compose, initialize_config_module

    _, command = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    arguments = re.sub(r"\\\n", " ", command).partition("main_ppo ")[2]
    words = shlex.split(arguments.replace("$PWD", str(folder)))
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[word for word in words if word != "+platform=cpu"])
    check_tool_files(config)
    assert Path(config.reward.custom_reward_function.path).is_file()
    assert config.actor_rollout_ref.rollout.n == 12
