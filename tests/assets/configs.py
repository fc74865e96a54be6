"""Whole configs of verl with this package's presets, good ones and ones with settings that cannot work."""

from __future__ import annotations

import functools
import re

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from verl_atpo.startup.driver import LONGEST, CheckConfig


@functools.cache
def good(preset: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        overrides = [
            f"+atpo={preset}",
            "+agent=search",
            "data.train_files=none.parquet",
            "actor_rollout_ref.rollout.name=vllm",
        ]
        return compose("ppo_trainer", overrides=overrides)


def config_with(*settings: str, preset: str = "tree") -> DictConfig:
    config = good(preset).copy()
    with open_dict(config):
        for setting in settings:
            key, _, value = setting.partition("=")
            OmegaConf.update(
                config,
                key,
                OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"],
                force_add=True,
                merge=False,
            )
    return config


def refusal(config: DictConfig) -> str:
    """What the driver says of a config that cannot work."""
    with pytest.raises(SystemExit) as end:
        CheckConfig().on_job_start(config)
    message = str(end.value.code)
    assert message.startswith("verl_atpo: ") and len(message) <= LONGEST
    return message


REMEDY = re.compile(r"\b(set|expected|choose|add|correct|use|reject|name them in|valid ones are)\b")


def check_refusal(settings: str | tuple[str, ...], refused: str, preset: str = "tree") -> None:
    """Hold that a message names setting and value, and says what to do."""
    message = refusal(config_with(*([settings] if isinstance(settings, str) else settings), preset=preset))
    _, found, rest = message.partition(refused)
    assert found and message.startswith(f"verl_atpo: {refused}")
    assert REMEDY.search(rest), message
