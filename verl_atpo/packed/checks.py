"""What cannot be trained on packed rows, refused before Ray starts. The model itself is looked at by its workers."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_atpo.packed import ACTIVATE
from verl_atpo.settings import ConfigError

ACTOR, REF, MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "ref", "model"))
WITHOUT = "leave out +train=packed"


def is_packed(config: DictConfig) -> bool:
    """Whether `+train=packed`, or what it sets, is part of verl's config."""
    libraries = OmegaConf.select(config, f"{MODEL}.external_lib")
    return ACTIVATE in ([libraries] if isinstance(libraries, str) else libraries or [])


def check_packed(config: DictConfig) -> None:
    """Check verl's config for training on packed rows.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    for setting, expected, remedy in (
        ("trainer.use_v1", True, "set trainer.use_v1=True"),
        (f"{ACTOR}.strategy", "fsdp2", f"set {ACTOR}.strategy=fsdp2, the engine that is packed"),
        (f"{REF}.strategy", "fsdp2", f"set {REF}.strategy=fsdp2, the engine that is packed"),
        (f"{ACTOR}.ulysses_sequence_parallel_size", 1, "set it to 1: a tree's tokens stay on one device"),
        (f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size", 1, "set it to 1: a tree's tokens stay on one device"),
        (f"{REF}.fsdp_config.ulysses_sequence_parallel_size", 1, "set it to 1: a tree's tokens stay on one device"),
        (f"{MODEL}.use_fused_kernels", False, "set it to False: fused kernels make log-probs for every row's tokens"),
        (f"{MODEL}.mtp.enable", False, f"set it to False, or {WITHOUT}"),
        (f"{ACTOR}.fsdp_config.pad_to_length", False, "set it to False: packs have no fixed length"),
        (f"{REF}.fsdp_config.pad_to_length", False, "set it to False: packs have no fixed length"),
        ("distillation.enabled", False, f"set it to False, or {WITHOUT}"),
    ):
        value = OmegaConf.select(config, setting)
        if value is not None and value != expected:
            raise _refusal(setting, value, remedy)
    if OmegaConf.select(config, "critic.enable") or (
        OmegaConf.select(config, "critic.enable") is None and config.algorithm.adv_estimator == "gae"
    ):
        raise _refusal("algorithm.adv_estimator", config.algorithm.adv_estimator, f"critics are not packed; {WITHOUT}")
    _check_router_replay(config)


def _check_router_replay(config: DictConfig) -> None:
    setting = f"{ACTOR}.router_replay.mode"
    if (mode := OmegaConf.select(config, setting)) not in (None, "disabled"):
        raise _refusal(setting, mode, f"recorded routes belong to rows; set it to disabled, or {WITHOUT}")


def _refusal(setting: str, value: Any, remedy: str) -> ConfigError:
    return ConfigError(f"{setting}={value} cannot work with packed rows: {remedy}.")
