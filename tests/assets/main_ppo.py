"""Real runs of verl's ``main_ppo`` on a CPU, with a tiny model and a user's own loop."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from tests.assets.python_path import QUICK_VARIABLES, ROOT
from tests.assets.tiny_model import write_model

ASSETS = ROOT / "tests" / "assets"
PROMPTS, LEAVES = 4, 8
LONGEST_RUN_S = 1500


FLASH_ATTENTION = importlib.util.find_spec("flash_attn") is not None
NO_FLASH_ATTENTION = [] if FLASH_ATTENTION else ["+actor_rollout_ref.model.override_config.attn_implementation=sdpa"]
DEVICES = {
    "cpu": ["+platform=cpu"],
    "cuda": [
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
        "ray_kwargs.ray_init.num_cpus=16",
        "data.dataloader_num_workers=0",
        "reward.num_workers=1",
        *NO_FLASH_ATTENTION,
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.3",
        "actor_rollout_ref.rollout.agent.num_workers=1",
    ],
}
"""Overrides for a device; on CUDA the rest is as GPU users run it: no padding, CUDA graphs, sleep mode."""
PLATFORMS = {"cpu": "cpu", "cuda": "nvidia"}
"""What verl calls the device's platform."""


class Run:
    """One ``main_ppo`` in ``folder``, which gets its model and data; ``main_ppo +atpo=tree`` unless overridden.

    Args:
        folder: its working directory; runs in the same folder share model, data and checkpoints.
        loop: name of the agent loop, ``tests/assets/<loop>.yaml`` without its ending.
        overrides: further arguments.
        environment: further variables, for Ray's workers too, but for those of Ray itself (its token would be logged);
            ``RAY_ADDRESS`` for a cluster that is there already.
        device: what it runs on.
    """

    def __init__(
        self, folder: Path, loop: str, *overrides: str, environment: dict[str, str] | None = None, device: str = "cpu"
    ) -> None:
        self.folder = folder
        if not (folder / "model").exists():
            write_model(folder / "model")
            write_data(folder)
        command = [sys.executable, "-W", "ignore", "-m", "verl.trainer.main_ppo"]
        command += arguments(folder, loop, *overrides, device=device)
        own = {"VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"), **(environment or {})}
        runtime = "+ray_kwargs.ray_init.runtime_env.env_vars"
        command += [f"{runtime}.{name}='{value}'" for name, value in own.items() if not name.startswith("RAY_")]
        variables = {
            "RAY_ADDRESS": "local",
            "VERL_PLATFORM": PLATFORMS[device],
            **QUICK_VARIABLES,
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
            **own,
        }
        self._metrics = folder / "metrics.jsonl"
        self._before = self._metrics.stat() if self._metrics.exists() else None
        self._log = (folder / "train.log").open("w")
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait(self, timeout_s: float = LONGEST_RUN_S) -> int:
        """Return code; a run that takes longer is stopped and fails the test."""
        try:
            return self.process.wait(timeout_s)
        except BaseException:  # a test run that is interrupted leaves nothing behind either
            self.process.terminate()
            self.process.wait(60)
            raise
        finally:
            self._log.close()

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text()

    def steps(self) -> list[dict[str, Any]]:
        """Return what verl has logged since this start; the lines of an earlier start in the folder are kept there."""
        if not self._metrics.exists():
            return []
        with self._metrics.open("rb") as file:
            if self._before is not None and os.fstat(file.fileno()).st_ino == self._before.st_ino:
                file.seek(self._before.st_size)
            records = map(json.loads, file.read().split(b"\n")[:-1])
        return [{"step": step, "data": data} for step, data in {each["step"]: each["data"] for each in records}.items()]

    def wait_for_step(self, step: int) -> None:
        """Until ``step`` has been logged."""
        deadline = time.monotonic() + LONGEST_RUN_S
        while not any(record["step"] >= step for record in self.steps()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.terminate()
                raise AssertionError(self.log[-5000:])
            time.sleep(0.5)

    def trees(self) -> list[dict[str, Any]]:
        """The dumped trees; one that was grown again after a restart comes last."""
        files = sorted(self.folder.glob("trees/*.jsonl"), key=lambda file: file.stat().st_mtime)
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def rows(self, step: int) -> dict[str, list[str]]:
        """Keys of the rows that a step was trained on, by prompt; with ``trainer.rollout_data_dir=<folder>/rows``."""
        keys = [json.loads(line)["uid"] for line in (self.folder / "rows" / f"{step}.jsonl").read_text().splitlines()]
        by_prompt: dict[str, list[str]] = {}
        for key in keys:
            by_prompt.setdefault(key.partition("_")[0], []).append(key)
        return by_prompt

    def waiting(self, step: int) -> set[str]:
        """Prompts that the checkpoint of a step holds because they have not been trained on; asynchronous trainers."""
        folder = self.folder / "checkpoints" / f"global_step_{step}" / "transfer_queue"
        partition = pickle.loads((folder / "controller_state.pkl").read_bytes())["partitions"]["train"]
        tags = partition.custom_meta
        return {key for key, number in partition.keys_mapping.items() if tags.get(number, {}).get("is_prompt")}

    def worker(self, name: str) -> psutil.Process:
        """This run's Ray process whose title begins with ``ray::<name>``."""
        (found,) = [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if " ".join(process.cmdline()).startswith(f"ray::{name}")
        ]
        return found

    def left_over(self) -> list[str]:
        """Processes that still work in the run's folder a minute after its end (Ray takes its workers down slowly)."""
        deadline = time.monotonic() + 60
        while (found := self._at_work()) and time.monotonic() < deadline:
            time.sleep(1)
        return found

    def _at_work(self) -> list[str]:
        found = []
        for process in psutil.process_iter(["cwd", "cmdline", "pid"]):
            if (process.info["cwd"] or "").startswith(str(self.folder)) and process.pid != os.getpid():
                found.append(" ".join(process.info["cmdline"] or []))
        return found


def arguments(folder: Path, loop: str, *overrides: str, device: str = "cpu") -> list[str]:
    """Of ``main_ppo``; see :class:`Run`."""
    return [
        *("+atpo=tree", *DEVICES[device], "+sampler=quick"),
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
        f"actor_rollout_ref.rollout.agent.default_agent_loop={loop.partition('_')[0]}",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={ASSETS}/{loop}.yaml",
        f"reward.custom_reward_function.path={ASSETS}/words_reward.py",
        "algorithm.atpo.expansion.initial_chains=4",
        "algorithm.atpo.expansion.branches_per_round=2",
        "algorithm.atpo.expansion.rounds=2",
        f"algorithm.atpo.dump_dir={folder}/trees",
        "trainer.save_freq=-1",
        'trainer.logger=["console","file"]',
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
        *overrides,
    ]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def write_data(folder: Path) -> None:
    """Sixteen prompts of two words, four of them for validation."""
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


def check_rewards(trees: list[dict[str, Any]], step: int, logged: dict[str, float]) -> None:
    """verl's scores of a step are the outcome rewards of its leaves: no row is lost, doubled or changed."""
    leaves = [node for tree in trees if tree["global_step"] == step for node in tree["nodes"] if node["is_leaf"]]
    rewards = [leaf["reward"] for leaf in leaves]
    assert len(rewards) == PROMPTS * LEAVES
    assert abs(logged["critic/score/mean"] - sum(rewards) / len(rewards)) < 1e-5
    assert abs(logged["critic/score/max"] - max(rewards)) < 1e-5
    assert abs(logged["critic/score/min"] - min(rewards)) < 1e-5


def check_that_it_ends_without(run: Run, worker: str) -> None:
    """A run one of whose workers is killed ends with an error that names the death, and leaves no process behind."""
    run.worker(worker).kill()
    assert run.wait(300) != 0
    assert "died" in run.log.lower()
    assert run.left_over() == []


def check_trees_of_a_step(run: Run, step: int, data: dict[str, Any]) -> set[str]:
    """The rows of a step are whole trees, and nothing was lost on the way; returns their prompts."""
    rows = run.rows(step)
    assert len(rows) == PROMPTS
    for uid, keys in rows.items():
        assert sorted(keys) == sorted(f"{uid}_{leaf}_0" for leaf in range(LEAVES))
    assert data["atpo/trees_failed"] == data["atpo/tool_errors"] == data.get("atpo/replays_diverged", 0) == 0
    grown = {tree["uid"]: tree for tree in run.trees()}
    check_rewards([{**grown[uid], "global_step": step} for uid in rows], step, data)
    return set(rows)
