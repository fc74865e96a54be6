"""What ``try_agent`` says of an agent."""

from __future__ import annotations

import asyncio

import pytest
from transformers import Qwen3Config

from tests.assets.scripted_engine import call_text, tokenizer
from verl_atpo.try_agent import main

AGENT = """
import itertools, openai

RUNS = itertools.count()
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}

def solve(task, base_url, api_key, tick=False):
    run = next(RUNS)
    client = openai.OpenAI(base_url=base_url, api_key=api_key)
    messages = list(task.messages)
    while True:
        message = client.chat.completions.create(model="m", messages=messages, tools=[TOOL]).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return float("Norway" in message.content)
        for call in message.tool_calls:
            seen = f"Run {run}." if tick else "Norway."
            messages.append({"role": "tool", "tool_call_id": call.id, "content": seen})

def tick(task, base_url, api_key):
    return solve(task, base_url, api_key, tick=True)
"""


@pytest.fixture
def folder(tmp_path):
    tokenizer().save_pretrained(tmp_path / "model")
    Qwen3Config(vocab_size=len(tokenizer()), hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path / "model")
    (tmp_path / "own.py").write_text(AGENT)
    return tmp_path


def options(folder, function):
    answers = ["--answer", call_text("Oslo"), "--answer", call_text("Bergen"), "--answer", "In Norway."]
    return ["--agent", f"{folder}/own.py:{function}", "--model", str(folder / "model"), "--text", "Where?", *answers]


async def test_an_agent_that_asks_for_the_same_passes(folder, capsys):
    assert await asyncio.to_thread(main, options(folder, "solve")) == 0
    said = capsys.readouterr().out
    assert "1 rows; result 1.0; reward 1.0" in said
    assert "Replayed at each of its 3 calls: it asked for the same every time." in said


async def test_a_number_that_changes_is_named(folder, capsys):
    assert await asyncio.to_thread(main, options(folder, "tick")) == 1
    said = capsys.readouterr().out
    assert "Replayed up to call 2:" in said and "Run 0." in said and "Run 2." in said
    assert await asyncio.to_thread(main, [*options(folder, "tick"), "--ignore", r"Run \d+"]) == 0
