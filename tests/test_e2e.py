"""The real thing: verl's ``main_ppo`` with Ray, an FSDP2 actor and a vLLM server, on a CPU, with a user's own loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.assets.tiny_model import write_model
from tests.assets.words_loop import TURNS

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "tests" / "assets"
PROMPTS, LEAVES, STEPS = 4, 8, 2


def write_data(folder: Path) -> None:
    rows = [
        {
            "data_source": "words",
            "prompt": [{"role": "user", "content": f"w{row} w{(7 * row) % 40}"}],
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": row},
        }
        for row in range(16)
    ]
    pd.DataFrame(rows).to_parquet(folder / "train.parquet")
    pd.DataFrame(rows[:4]).to_parquet(folder / "val.parquet")


def train(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "verl.trainer.main_ppo"),
        *("+atpo=tree", "+platform=cpu", "+sampler=quick"),
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        f"data.train_batch_size={PROMPTS}",
        "data.max_prompt_length=32",
        "data.max_response_length=64",
        f"actor_rollout_ref.model.path={folder}/model",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.rollout.max_model_len=128",
        "actor_rollout_ref.rollout.agent.default_agent_loop=words",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={ASSETS}/words_loop.yaml",
        f"reward.custom_reward_function.path={ASSETS}/words_reward.py",
        "algorithm.atpo.expansion.initial_chains=4",
        "algorithm.atpo.expansion.branches_per_round=2",
        f"algorithm.atpo.dump_dir={folder}/trees",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.test_freq={STEPS}",
        "trainer.save_freq=-1",
        'trainer.logger=["console","file"]',
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
        *overrides,
    ]
    environment = {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "train.log").open("w") as log:
        return subprocess.run(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=1500,
            check=False,
        )


def left_over(folder: Path) -> list[str]:
    """Processes that still work in the run's folder."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "pid"]):
        cwd = process.info["cwd"] or ""
        if cwd.startswith(str(folder)) and process.pid != os.getpid():
            found.append(" ".join(process.info["cmdline"] or []))
    return found


@pytest.mark.e2e
def test_main_ppo_trains_on_trees(tmp_path):
    write_model(tmp_path / "model")
    write_data(tmp_path)
    run = train(tmp_path)
    log = (tmp_path / "train.log").read_text()
    assert run.returncode == 0, log[-5000:]
    deadline = time.monotonic() + 60  # Ray takes its workers down after the driver has gone
    while left_over(tmp_path) and time.monotonic() < deadline:
        time.sleep(1)
    assert left_over(tmp_path) == []

    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps] == [0, 1, 2]
    before, *trained = (record["data"] for record in steps)
    assert "val-core/words/acc/mean@1" in before and "val-core/words/acc/mean@1" in trained[-1]
    assert not any(key.startswith("atpo/") for key in before)  # validation runs verl's plain chains
    for data in trained:
        assert data["atpo/trees"] == PROMPTS
        assert data["atpo/leaves_per_tree"] == LEAVES
        assert data["atpo/depth/mean"] == TURNS
        assert 0 < data["atpo/saved_tokens_share"] < 1
        assert data["atpo/replays_diverged"] == data["atpo/branches_regrown"] == 0
        assert data["actor/atpo/turns_per_row"] == TURNS
        assert data["actor/grad_norm"] > 0
        assert data["training/rollout_probs_diff_max"] < 0.01  # the trainer recomputes the recorded log-probs

    trees = [json.loads(line) for file in tmp_path.glob("trees/*.jsonl") for line in file.read_text().splitlines()]
    assert len(trees) == PROMPTS * STEPS
    for tree in trees:
        assert sum(node["is_leaf"] for node in tree["nodes"]) == LEAVES
        assert len(tree["picked"]) == 4
    for step, data in enumerate(trained, start=1):
        rewards = [
            node["reward"] for tree in trees if tree["global_step"] == step for node in tree["nodes"] if node["is_leaf"]
        ]
        # The rows' token-level rewards, as verl sums them, are the outcome rewards of the leaves: nothing is lost.
        assert data["critic/score/mean"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-5)
        assert data["critic/score/max"] == pytest.approx(max(rewards), abs=1e-5)
