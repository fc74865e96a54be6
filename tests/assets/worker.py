"""A rollout worker without Ray, engine and queue: verl's own class with our methods, its neighbours stand-ins."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transfer_queue as tq
from hydra import compose, initialize_config_module
from tensordict import TensorDict
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.rollout.chains import ChainAgentLoopWorker
from verl_atpo.rollout.worker import TreeAgentLoopWorker
from verl_atpo.startup.verl_config import grows_trees

ASSETS = Path(__file__).parent


class Queue:
    """What was written to the transfer queue: the last status of every prompt, and the rows with their fields."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status: dict[str, str] = {}
        self.rows: dict[str, list[str]] = defaultdict(list)
        self.fields: dict[str, TensorDict] = {}
        monkeypatch.setattr(tq, "init", lambda *args: None)
        monkeypatch.setattr(tq, "async_kv_put", self._put)
        monkeypatch.setattr(tq, "async_kv_batch_put", self._put_rows)

    async def _put(self, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        self.status[key] = tag["status"]

    async def _put_rows(self, keys: list[str], fields: TensorDict, tags: list[dict], partition_id: str) -> None:
        for number, key in enumerate(keys):
            self.rows[key.split("_")[0]].append(key)
            self.fields[key] = fields[number]


class Client:
    """An engine that samples words of the tiny model's vocabulary; ``fail`` may raise first."""

    def __init__(self, fail: Callable[[], None] = lambda: None) -> None:
        self._rng = random.Random(0)
        self._fail = fail

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        self._fail()
        await asyncio.sleep(0)
        tokens = [self._rng.randrange(7, 40) for _ in range(3)]
        return TokenOutput(token_ids=tokens, log_probs=[-self._rng.random() for _ in tokens])


class Scorer:
    """Stands for the handle of verl's reward worker; ``score`` is the user's reward function."""

    def __init__(self, score: Callable[[], Any]) -> None:
        async def compute_score(data: Any) -> dict[str, Any]:
            return {"reward_score": score(), "reward_extra_info": {}}

        self.compute_score = SimpleNamespace(remote=compute_score)


def make_worker(
    model: Path,
    loop: str,
    *overrides: str,
    client: Any = None,
    scorer: Scorer | None = None,
    preset: str = "tree",
) -> Any:
    """A worker whose prompts run ``loop`` of ``broken_loops.yaml``; a tree has two chains and one branch."""
    rollout = "actor_rollout_ref.rollout"
    arguments = [
        f"+atpo={preset}",
        f"actor_rollout_ref.model.path={model}",
        f"{rollout}.name=vllm",
        f"{rollout}.agent.default_agent_loop={loop}",
        f"{rollout}.agent.agent_loop_config_path={ASSETS}/broken_loops.yaml",
        "algorithm.atpo.expansion.initial_chains=2",
        "algorithm.atpo.expansion.branches_per_round=1",
        "algorithm.atpo.expansion.rounds=1",
        "algorithm.atpo.growth.max_regrows=1",
        "algorithm.atpo.growth.regrow_delay_s=0.0",
        "++data.continuous_token.enable=True",  # verl 0.9.0 has to be told how to make tokens of messages
        *overrides,
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=arguments)
    kind = TreeAgentLoopWorker if grows_trees(config) else ChainAgentLoopWorker
    return kind(config, client or Client(), None, [scorer] if scorer else None)


def prompt(uid: str, loop: str, **fields: Any) -> dict[str, Any]:
    """verl's fields of one prompt."""
    return {
        "uid": uid,
        "raw_prompt": [{"role": "user", "content": "w1 w2"}],
        "agent_name": loop,
        "data_source": "words",
        "extra_info": {"index": 7},
        "global_steps": 1,
        "reward_model": {"ground_truth": ""},
        **fields,
    }
