"""The recipe scripts as verl's whole config: their dry run, then Hydra's composition as ``main_ppo`` does it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import verl  # noqa: F401  (importing it registers this package's presets with Hydra)
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from verl_atpo.config import AtpoConfig, ExpansionConfig
from verl_atpo.startup.checks import check_config
from verl_atpo.startup.verl_config import TREE_MANAGER

RECIPES = Path(__file__).parents[2] / "recipes"
METHODS = ("react", "grpo", "dapo", "gspo", "tree_grpo", "entropy_branching", "atpo")


def recipe_arguments(script: str, *arguments: str, **variables: str) -> list[str]:
    """Return the arguments that a recipe would hand to ``main_ppo``.

    Args:
        script: file name in ``recipes/``.
        *arguments: further arguments of the script.
        **variables: its environment variables; of the caller's environment only ``PATH`` is passed on.

    Raises:
        subprocess.CalledProcessError: the script refused; ``stderr`` says why.
    """
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1", **variables}
    command = ["bash", str(RECIPES / script), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()


def compose_arguments(arguments: Sequence[str]) -> DictConfig:
    """verl's config with these overrides; a key that verl does not have raises unless it is added with ``+``."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(arguments))


def rollout_of(config: DictConfig) -> AtpoConfig:
    """Return how a composed recipe samples one prompt: its tree, or ``rollout.n`` chains."""
    atpo, rollout = check_config(config), config.actor_rollout_ref.rollout
    if rollout.agent.get("agent_loop_manager_class") == TREE_MANAGER:
        return atpo
    return AtpoConfig(expansion=ExpansionConfig(initial_chains=rollout.n, rounds=0))
