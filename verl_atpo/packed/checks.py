"""Refuse, before Ray starts, what cannot be trained on packed rows: settings of verl, and models by their config.json.

The workers check the model once more when they have loaded it (:mod:`verl_atpo.packed.probe`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig

from verl_atpo.packed import ACTIVATE
from verl_atpo.packed.models import check_model
from verl_atpo.settings import ConfigError, refuse

ACTOR, REF, MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "ref", "model"))
WITHOUT = "leave out +train=packed"
LONGEST_REASON = 300
"""Characters of an error of transformers that are quoted."""


def is_packed(config: DictConfig) -> bool:
    """Return whether `+train=packed`, or what it sets, is part of verl's config."""
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
    check_packed_model(config)


def check_packed_model(config: DictConfig) -> None:
    """Check the model by its config.json, with the recipe's overrides; a folder that is not there is not looked at.

    Raises:
        ConfigError: names the model and what keeps it from being packed.
    """
    path = OmegaConf.select(config, f"{MODEL}.hf_config_path") or OmegaConf.select(config, f"{MODEL}.path")
    found = read_model_config(path, trust_remote_code=bool(OmegaConf.select(config, f"{MODEL}.trust_remote_code")))
    if found is not None:
        overrides = OmegaConf.to_container(OmegaConf.select(config, f"{MODEL}.override_config") or OmegaConf.create({}))
        assert isinstance(overrides, dict)
        _override(found, overrides.get("model_config", overrides))
        check_model(found)


def read_model_config(path: str | None, *, trust_remote_code: bool = False) -> Any:
    """Read a model's configuration from its folder, or from the hub's cache; None where there is none.

    Args:
        path: path of the model, or its name on the hub.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ConfigError: the folder has a config.json that transformers does not take.
    """
    if not path:
        return None
    folder = Path(path).expanduser()
    try:
        return AutoConfig.from_pretrained(
            str(folder) if folder.is_dir() else path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        if not (folder / "config.json").is_file():
            return None
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{MODEL}.path={path}: transformers cannot read {folder / 'config.json'}: {reason[:LONGEST_REASON]}. "
            f"Correct the file, or set {MODEL}.trust_remote_code=True for a model that brings its own code."
        ) from error


def _override(config: Any, values: dict[Any, Any]) -> None:
    for name, value in values.items():
        inner = getattr(config, str(name), None)
        if isinstance(value, dict) and inner is not None and not isinstance(inner, dict):
            _override(inner, value)
        else:
            setattr(config, str(name), value)


def _check_router_replay(config: DictConfig) -> None:
    setting = f"{ACTOR}.router_replay.mode"
    if (mode := OmegaConf.select(config, setting)) not in (None, "disabled"):
        raise _refusal(setting, mode, f"recorded routes belong to rows; set it to disabled, or {WITHOUT}")


def _refusal(setting: str, value: Any, remedy: str) -> ConfigError:
    return refuse(setting, value, f"rows are packed (+train=packed); {remedy}")
