"""Harnesses from the registry against the endpoint, each recorded once and replayed at every call.

Their requirements clash with those of the engine, so they live in ``.venv-harness``, which the test makes where the
registry can be reached.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.assets.scripted_engine import ScriptedEngine, call_text, make_loop, run, sampled, tokenizer
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.divergence import describe_divergence

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-harness"
AGENTS = ROOT / "tests" / "assets" / "harness_agents.py"
PACKAGES = (
    "openai-agents==0.24.0",
    "smolagents==1.26.0",
    "langgraph==1.2.22",
    "langchain-openai==1.7.4",
    "pydantic-ai-slim[openai]==2.68.0",
)
HARNESSES = ("openai_agents", "smolagents", "langgraph", "pydantic_ai")


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of the harnesses' environment."""
    ready, python = FOLDER / "ready", FOLDER / "bin" / "python"
    if not ready.is_file() or ready.read_text() != "\n".join(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        made = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"the harnesses cannot be installed: {made.stderr[-500:]}")
        ready.write_text("\n".join(PACKAGES))
    return str(python)


def script(harness: str) -> list[str]:
    """Two calls of a tool, one of them for two towns, then the answer, as the harness expects it."""
    if harness == "smolagents":
        last = '<tool_call>\n{"name": "final_answer", "arguments": {"answer": "In Norway."}}\n</tool_call>'
    else:
        last = "In Norway."
    return [call_text("Oslo", thought="I look it up."), call_text("Oslo", "Bergen"), last]


async def once(python: str, harness: str, engine, prefix=(), **settings):
    """Run a harness over an engine; returns its LLM client and its rows."""
    session = ReplayClient(engine, "tree", prefix)
    loop = make_loop(session, command=[python, str(AGENTS), harness], timeout_s=120.0, **settings)
    rows = await run(loop)
    session.close()
    assert rows[0].extra_fields["agent_crash"] is None
    return session, rows


@pytest.mark.parametrize("harness", HARNESSES)
async def test_recorded_once_and_replayed_at_every_call(python, harness):
    engine = ScriptedEngine(script(harness))
    first, rows = await once(python, harness, engine)
    assert rows[0].extra_fields["agent_result"] == {"answer": "In Norway."}
    assert sorted(sampled(rows)) == sorted(token for answer in engine.answers for token in answer)
    assert len(first.generations) == 3
    for length in (1, 2, 3):
        again = ScriptedEngine(script(harness)[length:])
        session, _ = await once(python, harness, again, first.generations[:length])
        assert (session.replayed, session.diverged, session.unasked) == (length, False, [])
        assert len(again.answers) == 3 - length


async def test_a_clock_in_the_prompt_is_noticed_and_named(python):
    settings = {"environment": {"CLOCK": "1"}}
    name = "pydantic_ai"
    first, _ = await once(python, name, ScriptedEngine(script(name)), **settings)
    recorded = first.generations[:2]
    session, _ = await once(python, name, ScriptedEngine(script(name)), recorded, **settings)
    assert session.diverged and session.replayed == 0
    assert "It is" in describe_divergence(session, tokenizer().decode)
    settings["ignore"] = [r"It is [\d.]+ s"]
    session, _ = await once(python, name, ScriptedEngine(script(name)[2:]), recorded, **settings)
    assert (session.replayed, session.diverged) == (2, False)
