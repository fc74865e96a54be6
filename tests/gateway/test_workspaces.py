"""Agents with a workspace of their own: what they are given, and that nothing of it stays."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.assets.scripted_engine import ScriptedEngine, make_loop, run
from verl_atpo.failure import TrajectoryBug
from verl_atpo.gateway.agents import import_function
from verl_atpo.settings import ConfigError

ROW = {"extra_info": {"workspace": {"files": {"task.txt": "forty-two\n", "unused": None}}}}
AGENT = """
import json, os, subprocess, openai
task = json.load(open(os.environ["TASK_FILE"]))
openai.OpenAI().chat.completions.create(model="m", messages=task["messages"])
def run(*command):
    return subprocess.run([os.environ["WORKSPACE_RUN"], *command], capture_output=True, stdin=subprocess.DEVNULL)
open(os.environ["WORKSPACE"] + "/mine", "w").write("by the agent\\n")
done = run("cat task.txt mine; echo more >> mine; cat /etc/shadow; exit 7")
result = {
    "code": done.returncode, "output": done.stdout.decode(), "mine": open(os.environ["WORKSPACE"] + "/mine").read(),
    "words": run("printf", "%s|", "a b", "c").stdout.decode(), "late": run("sleep 60").returncode,
    "path": os.environ["WORKSPACE"],
}
json.dump(result, open(os.environ["RESULT_FILE"], "w"))
"""


def is_removed(path: Path) -> bool:
    """A thread of its own removes folders."""
    deadline = time.monotonic() + 20
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.exists()


async def test_a_function_gets_a_workspace(tmp_path: Path):
    seen: dict[str, Any] = {}

    def agent(task, base_url, api_key, workspace):
        client = openai.OpenAI(base_url=base_url, api_key=api_key)
        client.chat.completions.create(model="m", messages=task.messages)
        (workspace.path / "mine").write_text("by the agent\n")
        seen.update(path=workspace.path, done=workspace.run("cat task.txt mine; pwd; echo more >> mine; exit 3"))
        seen.update(mine=(workspace.path / "mine").read_text())
        return 1.0

    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), agent, workspace={"folder": str(tmp_path)}), **ROW)
    assert row.reward_score == 1.0
    assert seen["done"].text == "forty-two\nby the agent\n/workspace\n" and seen["done"].exit_code == 3
    assert seen["mine"] == "by the agent\nmore\n"
    assert str(seen["path"]).startswith(str(tmp_path)) and is_removed(seen["path"])


async def test_a_command_line_gets_a_folder_and_a_program(tmp_path: Path):
    (tmp_path / "agent.py").write_text(AGENT)
    command = [sys.executable, str(tmp_path / "agent.py")]
    settings = {"folder": str(tmp_path), "wall_s": 2.0}
    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), command=command, workspace=settings), **ROW)
    result = row.extra_fields["agent_result"]
    assert row.extra_fields["agent_crash"] is None
    assert result["code"] == 7 and result["words"] == "a b|c|" and result["late"] == 124
    assert result["output"].startswith("forty-two\nby the agent\n") and "root:" not in result["output"]
    assert result["mine"] == "by the agent\nmore\n" and is_removed(Path(result["path"]))


async def test_a_row_that_asks_for_what_cannot_be_stops_the_run(tmp_path: Path):
    loop = make_loop(ScriptedEngine(["Yes."]), _unused, workspace={"folder": str(tmp_path)})
    for given in ({"files": {"../x": "text"}}, {"template": "/no/such/folder"}, {"image": "x"}):
        with pytest.raises(TrajectoryBug, match=r"extra_info.workspace cannot work"):
            await run(loop, extra_info={"workspace": given})


def test_a_function_that_takes_no_workspace_is_refused(tmp_path: Path):
    (tmp_path / "own.py").write_text("def solve(task, base_url, api_key): ...\n")
    with pytest.raises(ConfigError, match=r"expected a function of \(task, base_url, api_key, workspace\)"):
        import_function(f"{tmp_path / 'own.py'}:solve", workspace=True)


def _unused(task, base_url, api_key, workspace): ...
