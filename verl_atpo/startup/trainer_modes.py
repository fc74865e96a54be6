"""Start-up checks of verl's trainer modes: what verl would refuse, or stumble over, once Ray and models are up."""

from __future__ import annotations

import logging
import math
import os

from omegaconf import DictConfig

from verl_atpo.config import ConfigError
from verl_atpo.startup.verl_config import ROLLOUT, get, refuse_unknown

MODES = ("sync", "colocate_async", "separate_async")
MODE = "trainer.v1.trainer_mode"


def check_trainer_mode(config: DictConfig) -> None:
    """Check what ``trainer.v1.trainer_mode`` needs of the rest of verl's config.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    mode = get(config, MODE)
    if mode is None:  # verl's legacy trainer, or a part of a config
        return
    if mode not in MODES:
        refuse_unknown(MODE, mode, MODES)
    if mode == "separate_async":
        _check_separate(config)
    _check_storage(config, mode)


def _check_storage(config: DictConfig, mode: str) -> None:
    """TransferQueue holds a batch, and with an asynchronous trainer those that are sampled ahead."""
    key = "transfer_queue.backend.SimpleStorage.total_storage_size"
    size = get(config, key)
    if size is None:  # no limit
        return
    ahead = get(config, f"trainer.v1.{mode}.num_warmup_batches") or 0
    needed = math.ceil((1 + ahead) * get(config, "data.train_batch_size") * (1 + get(config, f"{ROLLOUT}.n")))
    if needed > size:
        raise ConfigError(
            f"{key}={size} cannot work: {1 + ahead} batches of data.train_batch_size prompts and their rollout.n rows "
            f"are {needed} entries; set {key}=null or more than that."
        )


def _check_separate(config: DictConfig) -> None:
    sync = "trainer.v1.separate_async.parameter_sync_step"
    prompts, mini_batch, steps = (
        get(config, key) for key in ("data.train_batch_size", "actor_rollout_ref.actor.ppo_mini_batch_size", sync)
    )
    if prompts != mini_batch * steps:
        raise _refusal(
            f"data.train_batch_size={prompts}",
            f"it has to be {sync} * ppo_mini_batch_size = {steps} * {mini_batch}; set one of the three",
        )
    for key in ("nnodes", "n_gpus_per_node"):
        if not get(config, f"{ROLLOUT}.{key}"):
            raise _refusal(
                f"{ROLLOUT}.{key}={get(config, f'{ROLLOUT}.{key}')}",
                "the rollout has devices of its own; set how many, beside those of the trainer",
            )
    backend = f"{ROLLOUT}.checkpoint_engine.backend"
    if get(config, backend) == "naive":
        raise _refusal(f"{backend}=naive", "weights have to change devices; set nccl, or gloo with +platform=cpu")
    if get(config, "actor_rollout_ref.hybrid_engine") is False and _verl_logs_information():
        raise _refusal(
            "actor_rollout_ref.hybrid_engine=False",
            "verl 0.9.1 raises TypeError in the line that logs it; set it to True, or "
            "VERL_LOGGING_LEVEL=WARNING in the environment",
        )


def _verl_logs_information() -> bool:
    level = logging.getLevelName(os.environ.get("VERL_LOGGING_LEVEL", "INFO"))
    return not isinstance(level, int) or level <= logging.INFO


def _refusal(got: str, remedy: str) -> ConfigError:
    return ConfigError(f"{got} cannot work with {MODE}=separate_async: {remedy}.")
