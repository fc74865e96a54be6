"""verl's config with presets, and what a preset changes."""

from __future__ import annotations

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf


def composed(*overrides: str):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def changed_by(preset: str) -> dict[str, object]:
    """Leaves of verl's config that a preset changes or adds, with their new values."""

    def leaves(node, path=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{path}{key}.")
            else:
                yield f"{path}{key}", value

    plain = dict(leaves(OmegaConf.to_container(composed())))
    with_preset = dict(leaves(OmegaConf.to_container(composed(preset), resolve=False)))
    return {key: value for key, value in with_preset.items() if key not in plain or plain[key] != value}
