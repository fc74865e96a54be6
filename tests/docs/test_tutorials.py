"""The pages that tell how to write a tool, a reward, an agent loop: their code and commands, run to the letter."""

from __future__ import annotations

import random
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from verl.workers.rollout.replica import TokenOutput

from tests.assets.worker import Queue, make_worker, prompt
from verl_atpo import try_tool
from verl_atpo.tiny import ChatFormat, build_model, save

DOCS = Path(__file__).parents[2] / "docs"
TRAIN = {"validate": False, "step": 1, "sample_index": 0, "rollout_n": 0}
LONGEST_LOOP = 25


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the files of a page, as its reader does, into the folder he stands in."""
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(page: str) -> list[str]:
        names = []
        for name, body in re.findall(r"```\w+\n# (\S+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
            (tmp_path / name).write_text(body)
            names.append(name)
        return names

    yield write
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks."""
    return [
        line
        for block in re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
        for line in block.splitlines()
    ]


def test_the_tool_of_the_tools_page_is_rehearsed_by_its_command(written, capsys):
    assert written("tools.md") == ["shelf.py"]
    (command,) = commands("tools.md")
    program, _, arguments = command.partition(" verl_atpo.try_tool ")
    assert program == "python -m"
    assert try_tool.main([*shlex.split(arguments), "--call", "thing=cup", "--call", "thing=book"]) == 0
    said = capsys.readouterr().out
    assert "On the shelf: cup, book" in said and "put branches by fork: 2 calls" in said
    assert try_tool.main([*shlex.split(arguments), *["--call", "thing=cup"] * 3]) == 0
    assert "'' is not in list" in capsys.readouterr().out  # the model reads it


def test_the_actions_of_the_tools_page_are_played(tmp_path, monkeypatch, capsys):
    """Its second block, as a file."""
    body = re.findall(
        r"```python\n(from verl_atpo.tools import StatefulTool, action.*?)```",
        (DOCS / "tools.md").read_text(),
        re.DOTALL,
    )
    (tmp_path / "desk.py").write_text(body[0])
    monkeypatch.syspath_prepend(tmp_path)
    calls = ["take", "pull drawer=1", "pull drawer=3", "take", "take"]
    code = try_tool.main(["desk.Desk", *(part for call in calls for part in ("--call", call))])
    said = capsys.readouterr().out
    assert code == 0 and "desk branches by replay: 4 calls" in said and "The tool ended the episode." in said
    sys.modules.pop("desk")


def test_the_reward_of_the_reward_page_counts_what_the_policy_wrote(written):
    assert written("my_reward.md") == ["reward.py"]
    from reward import compute_score  # type: ignore[import-not-found]

    def scored(own: str) -> dict[str, float]:
        found = {"policy_text": own, "tool_rewards": [0.0, 1.0]}
        return compute_score("any", f"tool: <answer>9</answer> {own}", "9", found)

    assert scored("<answer>9</answer>") == {"score": 1.0, "acc": 1.0, "calls": 2}
    assert scored("<answer>8</answer>")["score"] == 0.0


class Guesser:
    """An engine whose turns are numbers, each with its end."""

    def __init__(self, chat: ChatFormat) -> None:
        self._rng, self._chat = random.Random(0), chat
        self.asked: list[str] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        self.asked.append(self._chat.decode(prompt_ids))
        tokens = self._chat.encode(f"{self._rng.randrange(1, 4)}<|im_end|>")
        return TokenOutput(
            token_ids=tokens,
            log_probs=[-self._rng.random() for _ in tokens],
            extra_fields={"min_global_steps": 1, "max_global_steps": 1},
        )


async def test_the_loop_of_the_loop_page_grows_trees(written, monkeypatch, tmp_path):
    assert written("my_agent_loop.md") == ["guess_loop.py", "guess_loop.yaml"]
    lines = [line for line in Path("guess_loop.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= LONGEST_LOOP
    chat = ChatFormat(ChatFormat.tokenizer_of(["user assistant higher lower", *map(str, range(16))]))
    save(build_model(chat.tokenizer, 0), chat.tokenizer, tmp_path / "model")
    queue, engine = Queue(monkeypatch), Guesser(chat)

    page = (DOCS / "my_agent_loop.md").read_text()
    settings = [line.strip().replace("$PWD", str(tmp_path)) for line in re.findall(r"^    (actor_\S+)$", page, re.M)]
    assert len(settings) == 2
    worker = make_worker(
        tmp_path / "model", "guess", *settings, "algorithm.atpo.expansion.initial_chains=6", client=engine
    )
    row = prompt("p1", "guess", extra_info={"index": 0, "secret": 3})
    await worker._run_prompt(row, {"temperature": 1.0}, trajectory=TRAIN)
    failures = await worker.failures()
    assert failures.bug is None and queue.status == {"p1": "finished"} and len(queue.rows["p1"]) == 7
    stats = await worker.take_stats()
    (tree,) = stats.trees
    assert tree.diverged == 0 and 1 < max(tree.depths) <= 4 and tree.distinct_rewards == 2
    assert any("higher<|im_end|>" in asked for asked in engine.asked)
