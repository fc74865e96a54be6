"""The recipes under verl's real config: every script and every value of every variable."""

from __future__ import annotations

import asyncio
import functools
import http.server
import os
import random
import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

from tests.assets.fakes import FakeEngine, FakeLoop, run_loop_with
from tests.assets.recipe_configs import METHODS, RECIPES, compose_arguments, recipe_arguments, rollout_of
from tests.assets.trees import outputs_of
from verl_atpo.config import AtpoConfig, ExpansionConfig
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.startup.checks import check_config
from verl_atpo.startup.verl_config import TREE_MANAGER

MODELS = {
    "qwen3_4b_multihop.sh": ("Qwen/Qwen3-4B", "multihop"),
    "qwen3_4b_singlehop.sh": ("Qwen/Qwen3-4B", "singlehop"),
    "qwen3_8b_multihop.sh": ("Qwen/Qwen3-8B", "multihop"),
    "qwen3_8b_singlehop.sh": ("Qwen/Qwen3-8B", "singlehop"),
    "qwen2.5_7b_multihop.sh": ("Qwen/Qwen2.5-7B-Instruct", "multihop"),
    "qwen2.5_7b_singlehop.sh": ("Qwen/Qwen2.5-7B-Instruct", "singlehop"),
}
TREES = {"atpo", "tree_grpo", "entropy_branching"}
ADDED = {
    "+atpo",
    "+agent",
    "+score",
    "+ray_kwargs.ray_init.runtime_env.env_vars.SEARCH_URL",
    "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH",
}
"""Presets and environment variables; any other ``+key`` is one that verl does not read."""


def checked(arguments: list[str]):
    """The composed config, past all checks that verl and this package make before Ray starts."""
    assert {argument.partition("=")[0] for argument in arguments if argument.startswith("+")} <= ADDED
    config = compose_arguments(arguments)
    check_config(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    return config


@functools.cache
def of_method(method: str):
    """The shared script's config, all other variables at their defaults; to be read only."""
    return checked(recipe_arguments("train.sh", METHOD=method))


def test_the_scripts_are_these():
    assert {path.name for path in RECIPES.glob("*.sh")} == {*MODELS, "train.sh", "evaluate.sh"}


@pytest.mark.parametrize("script", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_models_script_is_the_shared_one_with_its_model_and_task(script, method, tmp_path):
    model, task = MODELS[script]
    variables = {"METHOD": method, "OUT": str(tmp_path), "METRICS": str(tmp_path / "metrics.jsonl")}
    shared = recipe_arguments("train.sh", MODEL_PATH=model, TASK=task, **variables)
    assert recipe_arguments(script, **variables) == shared
    assert f"actor_rollout_ref.model.path={model}" in shared
    assert any(re.fullmatch(rf"data\.train_files=.*train_{task}\.parquet", argument) for argument in shared)


@pytest.mark.parametrize("backend", ["fsdp2", "megatron"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_compose_on_both_backends(method, backend):
    default = backend == "fsdp2"
    config = of_method(method) if default else checked(recipe_arguments("train.sh", METHOD=method, BACKEND=backend))
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert actor.strategy == config.actor_rollout_ref.ref.strategy == backend
    assert rollout.n == 22
    assert (rollout.agent.get("agent_loop_manager_class") == TREE_MANAGER) == (method in TREES)
    assert config.algorithm.adv_estimator == ("atpo" if method == "atpo" else "grpo")
    assert config.trainer.val_only == (method == "react")
    assert config.trainer.resume_mode == ("disable" if method == "react" else "auto")
    assert (rollout.multi_turn.max_assistant_turns, rollout.response_length) == (7, 6192)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("style", ["tools", "tags"])
@pytest.mark.parametrize("method", ["atpo", "grpo"])
def test_engines_and_styles_compose(method, engine, style):
    config = checked(recipe_arguments("train.sh", METHOD=method, ENGINE=engine, STYLE=style))
    rollout = config.actor_rollout_ref.rollout
    assert rollout.name == engine
    assert rollout.agent.default_agent_loop == {"tools": "tool_agent", "tags": "tag_agent"}[style]
    assert f"qa_{style}" in config.data.train_files
    assert config.reward.custom_reward_function.path == "pkg://verl_atpo.search_qa.rewards.qa"


LOSSES = {  # loss mode, clip low, clip high, aggregation, KL loss, groups filtered
    "atpo": ("atpo", 0.003, 0.004, "seq-mean-token-mean", False, False),
    "grpo": ("vanilla", 0.2, 0.2, "token-mean", True, False),
    "dapo": ("vanilla", 0.2, 0.28, "token-mean", False, True),
    "gspo": ("gspo", 0.0003, 0.0004, "seq-mean-token-mean", False, False),
    "tree_grpo": ("vanilla", 0.2, 0.2, "token-mean", True, False),
    "entropy_branching": ("vanilla", 0.2, 0.2, "token-mean", False, False),
}


@pytest.mark.parametrize("method", LOSSES)
def test_losses_are_the_methods_own(method):
    config = of_method(method)
    actor = config.actor_rollout_ref.actor
    found = (actor.policy_loss.loss_mode, actor.clip_ratio_low, actor.clip_ratio_high, actor.loss_agg_mode)
    assert (*found, actor.use_kl_loss, config.algorithm.filter_groups.enable) == LOSSES[method]
    strategy = "random" if method == "tree_grpo" else "entropy"
    assert rollout_of(config).expansion.strategy == strategy


def test_nodes_gpus_and_further_arguments_reach_verl(tmp_path):
    variables = {"NNODES": "2", "GPUS_PER_NODE": "4", "SEARCH_URL": "http://search:9", "OUT": str(tmp_path)}
    arguments = recipe_arguments(
        "qwen3_8b_multihop.sh", "data.train_batch_size=16", LOGGER='["console","file","wandb"]', **variables
    )
    config = checked(arguments)
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node, config.data.train_batch_size) == (2, 4, 16)
    assert config.trainer.logger == ["console", "file", "wandb"]
    environment = config.ray_kwargs.ray_init.runtime_env.env_vars
    assert environment.SEARCH_URL == "http://search:9"
    assert Path(environment.VERL_FILE_LOGGER_PATH).parent == tmp_path


def test_evaluation_scores_all_questions_of_a_checkpoint(tmp_path):
    step = tmp_path / "run" / "checkpoints" / "global_step_240"
    config = checked(recipe_arguments("evaluate.sh", CHECKPOINT=f"{step}/", DATA_DIR=str(tmp_path)))
    assert config.trainer.val_only and config.trainer.val_before_train
    assert (config.trainer.resume_mode, config.trainer.resume_from_path) == ("resume_path", str(step))
    assert config.data.train_files == config.data.val_files == str(tmp_path / "test.parquet")
    assert config.data.val_max_samples == -1 and "file" in config.trainer.logger
    assert config.trainer.default_local_dir.endswith("outputs/eval_run_global_step_240/checkpoints")
    assert checked(recipe_arguments("evaluate.sh")).trainer.resume_mode == "disable"


def test_a_key_that_verl_does_not_have_is_refused():
    with pytest.raises(ConfigCompositionException, match="nope"):
        compose_arguments([*recipe_arguments("train.sh"), "actor_rollout_ref.actor.nope=1"])


def start(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe for real, with ``echo`` in the place of Python."""
    environment = {"PATH": os.environ["PATH"], "PYTHON": "echo"} | variables
    return subprocess.run(["bash", RECIPES / script], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("variable", ["METHOD", "STYLE", "ENGINE", "BACKEND", "TASK"])
def test_an_unknown_value_is_refused_with_the_valid_ones(variable):
    ran = start("train.sh", **{variable: "nope"})
    assert ran.returncode == 2
    assert f"{variable}=nope is unknown: expected " in ran.stderr


@pytest.fixture
def ready(tmp_path):
    """Variables of a run that may start."""
    for name in ("train_multihop.parquet", "test.parquet"):
        (tmp_path / name).touch()
    return {"DATA_DIR": str(tmp_path), "OUT": str(tmp_path / "out"), "SKIP_SERVER_CHECK": "1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TASK": "singlehop"}, r"train_singlehop\.parquet is missing; make it with\n.*--style tools"),
        ({"CHECKPOINT": "/nowhere/global_step_1"}, "holds no actor/: expected .*global_step_N"),
        ({"NNODES": "3"}, "MINI_BATCH=8 times 22 .* 24 training replicas; change MINI_BATCH"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(ready, change, message):
    ran = start("train.sh", **ready | change)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.search(message, ran.stderr, re.DOTALL)


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "local"),
        ({"NNODES": "2"}, "auto"),
        ({"RAY_ADDRESS": "192.0.2.1:6379"}, "192.0.2.1:6379"),
        ({"NNODES": "2", "RAY_ADDRESS": "192.0.2.1:6379"}, "192.0.2.1:6379"),
    ],
)
def test_which_ray_a_recipe_uses(ready, tmp_path, variables, address):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$RAY_ADDRESS"\n')
    python.chmod(0o755)
    assert start("train.sh", **ready, **variables, PYTHON=str(python)).stdout == f"{address}\n"


@pytest.fixture
def server():
    """A search server whose ``/health`` answers ``server.status``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(instance.status if self.path == "/health" else 500)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=instance.serve_forever)
    thread.start()
    yield instance
    instance.shutdown()
    instance.server_close()
    thread.join()


@pytest.mark.parametrize(("status", "starts"), [(200, True), (404, True), (503, False), (None, False)])
def test_the_search_server_is_asked_first(ready, server, status, starts):
    server.status = status or 200
    port = server.server_address[1] if status else 1
    url = f"http://127.0.0.1:{port}"
    ran = start("train.sh", **ready | {"SEARCH_URL": url, "SKIP_SERVER_CHECK": ""})
    assert (ran.returncode == 0) == starts
    if starts:
        assert ran.stdout.startswith("-m verl.trainer.main_ppo model_engine=dp")
    else:
        assert f"no search server at {url} (/health answered {status or '000'})" in ran.stderr
        assert "python -m verl_atpo.search_qa.retriever" in ran.stderr


def test_evaluation_reads_what_validation_logged(ready):
    ran = start("evaluate.sh", **ready)
    validation, evaluation = ran.stdout.splitlines()
    out, data = ready["OUT"], ready["DATA_DIR"]
    assert f"VERL_FILE_LOGGER_PATH={out}/metrics.jsonl" in validation
    assert evaluation == f"-m verl_atpo.search_qa.evaluation {out}/metrics.jsonl --test {data}/test.parquet --out {out}"


def test_grpo_on_a_trees_rows_is_credit_per_trajectory():
    """verl's GRPO sums a row's rewards, so the values inside a tree's rows do not reach it."""
    run_loop = run_loop_with(FakeEngine(seed=1, stop=0.3), FakeLoop(4))
    config = AtpoConfig(expansion=ExpansionConfig(initial_chains=4, branches_per_round=3, rounds=2, strategy="random"))
    grown = asyncio.run(TreeGrower(config, run_loop, random.Random(0)).grow())
    rows = list(outputs_of(grown))
    length = max(len(row.response_ids) for row in rows)
    shaped, outcome, mask = (torch.zeros(len(rows), length) for _ in range(3))
    for number, row in enumerate(rows):
        size = len(row.response_ids)
        shaped[number, :size] = torch.tensor(row.token_rewards)
        outcome[number, size - 1] = row.reward_score
        mask[number, :size] = torch.tensor(row.response_mask)
    assert len(set(outcome.sum(dim=1).tolist())) > 1 and not torch.equal(shaped, outcome)
    group = np.array(["prompt"] * len(rows))
    advantages = [compute_grpo_outcome_advantage(rewards, mask, group)[0] for rewards in (shaped, outcome)]
    torch.testing.assert_close(*advantages, rtol=1e-5, atol=1e-6)
