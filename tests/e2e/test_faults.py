"""Proof under fire: real training runs whose search server, rollout worker or engine fails."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml
from verl.tools.tool_registry import load_all_tools

from tests.assets.faulty_retriever import FAULTS, GIVEN_UP
from tests.assets.main_ppo import LEAVES, PROMPTS, Run, check_rewards, check_that_it_ends_without, free_port, write_data
from tests.assets.python_path import ROOT
from tests.assets.searcher_loop import TURNS
from tests.assets.tiny_model import write_model
from verl_atpo.search_qa.search_tool import SearchTool

SEARCH = ROOT / "verl_atpo" / "search_qa" / "search.yaml"
STEPS = 3


@contextmanager
def faulty_retriever(port: int, counts: Path) -> Iterator[None]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.assets.faulty_retriever", str(port), str(counts)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        server.kill()
        server.wait()


def write_search_yaml(file: Path, **settings: float) -> None:
    """The search tool's file with other settings, which the tool is then seen to have."""
    tools = yaml.safe_load(SEARCH.read_text())
    config = tools["tools"][0]["config"]
    assert set(settings) <= set(config)
    config.update(settings)
    file.write_text(yaml.safe_dump(tools))
    (tool,) = load_all_tools(tool_config_path=str(file), function_tool_path=None)
    assert isinstance(tool, SearchTool)
    assert {name: getattr(tool.settings, name) for name in settings} == settings


@pytest.mark.e2e
def test_training_goes_on_while_the_search_server_fails_and_ends_when_a_worker_dies(tmp_path):
    """Slow, dropped, 500, malformed; killed in the middle of a step and started again: no leaf is lost or punished.

    The trees grow continuously. When the rollout worker is killed, the run ends with an error that names the death, and
    leaves a checkpoint.
    """
    port, counts = free_port(), tmp_path / "counts.json"
    write_search_yaml(tmp_path / "search.yaml", timeout_s=1.0)
    run = Run(
        tmp_path,
        "searcher_loop",
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={tmp_path}/search.yaml",
        "trainer.total_training_steps=100",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=1",
        "algorithm.atpo.expansion.schedule=continuous",  # a branch may start at a turn of one that dies
        "algorithm.atpo.tools.retries=1",
        "algorithm.atpo.growth.max_regrows=12",
        "algorithm.atpo.growth.regrow_delay_s=0.1",
        environment={"SEARCH_URL": f"http://127.0.0.1:{port}"},
    )
    with faulty_retriever(port, counts):
        run.wait_for_step(1)
    time.sleep(5)
    with faulty_retriever(port, counts):
        run.wait_for_step(STEPS)
        check_that_it_ends_without(run, "TreeAgentLoopWorker")
    assert int((tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text()) >= STEPS

    happened = json.loads(counts.read_text())
    assert {"fine", *FAULTS} <= set(happened)
    assert happened.get(GIVEN_UP, 0) > 0  # time-outs, apart from all other outages
    steps = [record["data"] for record in run.steps()[:STEPS]]
    for step, data in enumerate(steps, start=1):
        assert (data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/trees_failed"]) == (PROMPTS, LEAVES, 0)
        assert data["atpo/depth/mean"] == TURNS
        assert data["atpo/tool_errors"] == 0  # outages are not the model's errors
        assert data["atpo/tool_outages"] <= data["atpo/branches_regrown"]
        check_rewards(run.trees(), step, data)
    trees = [tree["trajectories"] for tree in run.trees() if tree["global_step"] <= STEPS]
    chains_end = [max(each["ended_s"] for each in branches if each["selection"] is None) for branches in trees]
    assert any(branches[-1]["started_s"] < end for branches, end in zip(trees, chains_end, strict=True))
    assert sum(data["atpo/tool_retries"] for data in steps) > 0
    assert sum(data["atpo/tool_outages"] for data in steps) > 0


WAYS = ("exits", "lets a cancellation escape", "swallows its cancellation", "leaves a task that exits")
LIMIT_S = 20
HANG = "hang"
"""The right answer of prompts whose reward waits for ever."""
ODD_STEPS = 2


def odd_run(folder: Path, *overrides: str, later: dict[str, str]) -> Run:
    """Train on prompts whose tool misbehaves in turn, on every ninth call, for two steps; then on other prompts.

    Args:
        folder: of the run.
        *overrides: further arguments.
        later: the agent loop (``agent_name``) and right answer (``ground_truth``) of the later prompts, which are those
            of the validation too.
    """
    write_model(folder / "model")
    write_data(folder)
    odd = PROMPTS * ODD_STEPS
    for name, first in (("train", odd), ("val", 0)):
        rows = pd.read_parquet(folder / f"{name}.parquet")
        rows["agent_name"] = ["odd"] * first + [later["agent_name"]] * (len(rows) - first)
        rows["reward_model"] = [
            {"style": "rule", "ground_truth": "" if row < first else later["ground_truth"]} for row in range(len(rows))
        ]
        rows.to_parquet(folder / f"{name}.parquet")
    return Run(
        folder,
        "odd_run",
        f"actor_rollout_ref.rollout.multi_turn.function_tool_path={ROOT}/tests/assets/odd_tool.py",
        "data.shuffle=False",
        "trainer.total_training_steps=100",
        "trainer.test_freq=-1",
        "algorithm.atpo.tools.timeout_s=1.0",
        "algorithm.atpo.tools.retries=0",
        "algorithm.atpo.growth.max_regrows=20",
        "algorithm.atpo.growth.regrow_delay_s=0.1",
        *overrides,
        environment={"RAY_DEDUP_LOGS": "0", "ODD_TOOL": ",".join(WAYS)},
    )


def check_odd_steps(run: Run) -> None:
    """``sys.exit()`` is an error that the model reads; a stray cancellation and a hang are outages."""
    for way in WAYS:
        assert f"odd tool: {way}" in run.log
    assert "still runs though nothing waits for it" in run.log  # what swallowed its cancellation
    steps = [record["data"] for record in run.steps() if record["step"] > 0]
    assert [(data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/trees_failed"]) for data in steps] == [
        (PROMPTS, LEAVES, 0)
    ] * ODD_STEPS
    assert sum(data["atpo/tool_errors"] for data in steps) == run.log.count("odd tool: exits\n")
    hung = run.log.count("odd tool: lets") + run.log.count("odd tool: swallows")
    assert sum(data["atpo/tool_outages"] for data in steps) == hung > 0
    for number, data in enumerate(steps, start=1):
        check_rewards(run.trees(), number, data)


def last_words(run: Run, characters: int) -> str:
    """Return the end of the log, without what the interpreter says of its extensions."""
    return "\n".join(line for line in run.log.splitlines() if "leaked" not in line)[-characters:]


@pytest.mark.e2e
def test_a_tool_that_misbehaves_stops_no_training_and_a_bug_of_the_loop_ends_it_with_the_remedy_last(tmp_path):
    """verl itself would call it an empty replay buffer. A context that is replaced validates, and no tree has it."""
    run = odd_run(tmp_path, later={"agent_name": "replaced", "ground_truth": ""})
    assert run.wait(600) != 0
    last = last_words(run, 2000)
    for word in ["replaced its context", "an output for every stretch", "on prompt "]:
        assert word in last
    assert [record["step"] for record in run.steps()] == [0, *range(1, ODD_STEPS + 1)]
    check_odd_steps(run)


@pytest.mark.e2e
def test_a_tool_that_misbehaves_stops_no_chains_and_a_reward_that_waits_for_ever_stops_them_within_its_limit(tmp_path):
    run = odd_run(
        tmp_path,
        "+atpo=chain",
        f"actor_rollout_ref.rollout.n={LEAVES}",
        "trainer.val_before_train=False",
        f"reward.custom_reward_function.path={ROOT}/tests/assets/hanging_reward.py",
        "algorithm.atpo.watch.warn_s=3.0",
        f"algorithm.atpo.watch.limit_s={LIMIT_S}",
        later={"agent_name": "words", "ground_truth": HANG},
    )
    run.wait_for_step(ODD_STEPS)
    began = time.monotonic()
    assert run.wait(300) != 0
    assert time.monotonic() - began < LIMIT_S + 120  # a busy machine takes long to end its processes
    for word in ["The reward function", "has made no progress for", "Remedy: ", "hanging_reward.py"]:
        assert word in run.log
    last = last_words(run, 4000)
    assert "has made no progress for" in last and "Remedy: " in last
    assert run.left_over() == []
    check_odd_steps(run)
