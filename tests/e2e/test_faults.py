"""Proof under fire: real training runs whose search server, rollout worker or engine fails."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from verl.tools.tool_registry import load_all_tools

from tests.assets.faulty_retriever import FAULTS, GIVEN_UP
from tests.assets.main_ppo import LEAVES, PROMPTS, Run, check_rewards, free_port
from tests.assets.python_path import ROOT
from tests.assets.searcher_loop import TURNS
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
def test_training_goes_on_while_the_search_server_fails(tmp_path):
    """Slow, dropped, 500, malformed; killed in the middle of a step and started again: no leaf is lost or punished.

    The trees grow continuously.
    """
    port, counts = free_port(), tmp_path / "counts.json"
    write_search_yaml(tmp_path / "search.yaml", timeout_s=1.0)
    run = Run(
        tmp_path,
        "searcher_loop",
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={tmp_path}/search.yaml",
        f"trainer.total_training_steps={STEPS}",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
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
        assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []

    happened = json.loads(counts.read_text())
    assert {"fine", *FAULTS} <= set(happened)
    assert happened.get(GIVEN_UP, 0) > 0  # time-outs, apart from all other outages
    steps = [record["data"] for record in run.steps()]
    assert len(steps) == STEPS
    for step, data in enumerate(steps, start=1):
        assert (data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/trees_failed"]) == (PROMPTS, LEAVES, 0)
        assert data["atpo/depth/mean"] == TURNS
        assert data["atpo/tool_errors"] == 0  # outages are not the model's errors
        assert data["atpo/tool_outages"] <= data["atpo/branches_regrown"]
        check_rewards(run.trees(), step, data)
    trees = [tree["trajectories"] for tree in run.trees()]
    chains_end = [max(each["ended_s"] for each in branches if each["selection"] is None) for branches in trees]
    assert any(branches[-1]["started_s"] < end for branches, end in zip(trees, chains_end, strict=True))
    assert sum(data["atpo/tool_retries"] for data in steps) > 0
    assert sum(data["atpo/tool_outages"] for data in steps) > 0


@pytest.mark.e2e
def test_a_run_whose_workers_die_ends_and_resumes(tmp_path):
    """It ends with an error that names the death, not by waiting for ever, and goes on from its checkpoint."""
    done = 0
    for victim in ("TreeAgentLoopWorker", "vLLMHttpServer"):
        run = Run(
            tmp_path,
            "words_loop",
            "trainer.total_training_steps=100",
            "trainer.val_before_train=False",
            "trainer.test_freq=-1",
            "trainer.save_freq=1",
            "algorithm.atpo.growth.max_regrows=1",
            "algorithm.atpo.growth.regrow_delay_s=0.1",
        )
        run.wait_for_step(done + 1)
        run.worker(victim).kill()
        assert run.wait(300) != 0
        assert "died" in run.log.lower()
        assert run.left_over() == []
        assert run.steps()[0]["step"] == done + 1
        done = int((tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
        assert done >= run.steps()[0]["step"]


@pytest.mark.e2e
def test_a_bug_of_the_loop_ends_the_run_with_the_remedy_last(tmp_path):
    """verl itself would call it an empty replay buffer. A context that is replaced validates, and no tree has it."""
    run = Run(tmp_path, "broken_loops", "actor_rollout_ref.rollout.agent.default_agent_loop=replaced")
    assert run.wait(300) != 0
    last = "\n".join(line for line in run.log.splitlines() if "leaked" not in line)[-2000:]
    for word in ["replaced its context", "an output for every stretch", "on prompt "]:
        assert word in last
    assert [record["step"] for record in run.steps()] == [0]


WAYS = ("exits", "lets a cancellation escape", "swallows its cancellation", "leaves a task that exits")
LIMIT_S = 20


def odd_run(folder: Path, *overrides: str, **environment: str) -> Run:
    """A run whose tool misbehaves in turn, on every ninth call."""
    return Run(
        folder,
        "odd_run",
        f"actor_rollout_ref.rollout.multi_turn.function_tool_path={ROOT}/tests/assets/odd_tool.py",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "algorithm.atpo.tools.timeout_s=1.0",
        "algorithm.atpo.tools.retries=0",
        "algorithm.atpo.growth.max_regrows=20",
        "algorithm.atpo.growth.regrow_delay_s=0.1",
        *overrides,
        environment={"RAY_DEDUP_LOGS": "0", **environment},
    )


@pytest.mark.e2e
@pytest.mark.parametrize("preset", ["tree", "chain"])
def test_a_tool_that_misbehaves_in_four_ways_stops_no_training(tmp_path, preset):
    """``sys.exit()`` is an error that the model reads; a stray cancellation and a hang are outages."""
    chosen = [] if preset == "tree" else ["+atpo=chain", f"actor_rollout_ref.rollout.n={LEAVES}"]
    run = odd_run(tmp_path, "trainer.total_training_steps=2", *chosen, ODD_TOOL=",".join(WAYS))
    assert run.wait(600) == 0, run.log[-5000:]
    assert run.left_over() == []
    for way in WAYS:
        assert f"odd tool: {way}" in run.log
    assert "still runs though nothing waits for it" in run.log  # what swallowed its cancellation
    steps = [record["data"] for record in run.steps()]
    assert [(data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/trees_failed"]) for data in steps] == [
        (PROMPTS, LEAVES, 0)
    ] * 2
    assert sum(data["atpo/tool_errors"] for data in steps) == run.log.count("odd tool: exits\n")
    hung = run.log.count("odd tool: lets") + run.log.count("odd tool: swallows")
    assert sum(data["atpo/tool_outages"] for data in steps) == hung > 0
    for number, data in enumerate(steps, start=1):
        check_rewards(run.trees(), number, data)


@pytest.mark.e2e
def test_a_reward_that_waits_for_ever_stops_the_run_within_its_limit(tmp_path):
    hang = tmp_path / "hang"
    run = odd_run(
        tmp_path,
        "trainer.total_training_steps=100",
        f"reward.custom_reward_function.path={ROOT}/tests/assets/hanging_reward.py",
        "algorithm.atpo.watch.warn_s=3.0",
        f"algorithm.atpo.watch.limit_s={LIMIT_S}",
        ODD_HANG=str(hang),
    )
    run.wait_for_step(1)
    hang.touch()
    began = time.monotonic()
    assert run.wait(300) != 0
    assert time.monotonic() - began < LIMIT_S + 120  # a busy machine takes long to end its processes
    last = "\n".join(line for line in run.log.splitlines() if "leaked" not in line)[-4000:]
    for word in ["The reward function", "has made no progress for", "Remedy: ", "hanging_reward.py"]:
        assert word in run.log
    assert "has made no progress for" in last and "Remedy: " in last
    assert run.left_over() == []
