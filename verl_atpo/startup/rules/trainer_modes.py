"""Rules about verl's trainer modes: settings at which verl would fail once Ray and models have started."""

from __future__ import annotations

import logging
import math
import os

from verl_atpo.startup.rules.rule import Rule, Run, choice_rule
from verl_atpo.startup.verl_config import MODE, ROLLOUT

MODES = ("sync", "colocate_async", "separate_async")
STORAGE = "transfer_queue.backend.SimpleStorage.total_storage_size"
SYNC_STEP = "trainer.v1.separate_async.parameter_sync_step"
HERE = f"with {MODE}=separate_async"


def _separate(run: Run) -> bool:
    return bool(run.get(MODE) == "separate_async")


def _storage(run: Run) -> str | None:
    """Refuse a TransferQueue that is too small for one batch and those that an asynchronous trainer samples ahead."""
    size = run.get(STORAGE)
    if size is None:  # no limit
        return None
    ahead = run.get(f"trainer.v1.{run.get(MODE)}.num_warmup_batches") or 0
    needed = math.ceil((1 + ahead) * run.get("data.train_batch_size") * (1 + run.get(f"{ROLLOUT}.n")))
    if needed <= size:
        return None
    return (
        f"{1 + ahead} batches of data.train_batch_size prompts and their rollout.n rows are {needed} entries; set "
        f"{STORAGE}=null or more than that"
    )


def _steps(run: Run) -> str | None:
    mini_batch, steps = run.get("actor_rollout_ref.actor.ppo_mini_batch_size"), run.get(SYNC_STEP)
    if run.get("data.train_batch_size") == mini_batch * steps:
        return None
    return f"{HERE} it has to be {SYNC_STEP} * ppo_mini_batch_size = {steps} * {mini_batch}; set one of the three"


def _own_devices(setting: str) -> Rule:
    def problem(run: Run) -> str | None:
        why = f"{HERE} the rollout needs its own devices; set their number, in addition to the trainer's"
        return None if run.get(setting) else why

    return Rule(setting, problem, _separate)


def _transfer(run: Run) -> str | None:
    if run.get(f"{ROLLOUT}.checkpoint_engine.backend") != "naive":
        return None
    return f"{HERE} weights have to change devices; set nccl, or gloo with +platform=cpu"


def _hybrid(run: Run) -> str | None:
    level = logging.getLevelName(os.environ.get("VERL_LOGGING_LEVEL", "INFO"))
    logs = not isinstance(level, int) or level <= logging.INFO
    if run.get("actor_rollout_ref.hybrid_engine") is not False or not logs:
        return None
    return (
        f"{HERE} verl 0.9.1 raises TypeError in the line that logs it; set it to True, or VERL_LOGGING_LEVEL=WARNING "
        "in the environment"
    )


RULES = (
    choice_rule(MODE, lambda: MODES),
    Rule("data.train_batch_size", _steps, _separate),
    _own_devices(f"{ROLLOUT}.nnodes"),
    _own_devices(f"{ROLLOUT}.n_gpus_per_node"),
    Rule(f"{ROLLOUT}.checkpoint_engine.backend", _transfer, _separate),
    Rule("actor_rollout_ref.hybrid_engine", _hybrid, _separate),
    Rule(STORAGE, _storage, lambda run: run.get(MODE) is not None),
)
