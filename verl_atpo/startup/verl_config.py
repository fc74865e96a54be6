"""Access to verl's config: names of its settings, values at dotted keys."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_atpo.settings import did_you_mean, refuse

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MULTI_TURN = f"{ROLLOUT}.multi_turn"
AGENT = f"{ROLLOUT}.agent"
TREE_MANAGER = "verl_atpo.rollout.TreeAgentLoopManager"
CHAIN_MANAGER = "verl_atpo.rollout.ChainAgentLoopManager"
SAMPLER = f"{AGENT}.agent_loop_manager_class"

STRATEGY = f"{ACTOR}.strategy"
EXTERNAL = "actor_rollout_ref.model.external_lib"
"""Module that verl's workers import, which may register engines and agent loops of its own."""
REWARD_MANAGER = "reward.reward_manager.name"
CHECKPOINTS = "trainer.default_local_dir"

ESTIMATOR = "algorithm.adv_estimator"
LOSS = f"{ACTOR}.policy_loss.loss_mode"
MODE = "trainer.v1.trainer_mode"
LOOPS = f"{AGENT}.agent_loop_config_path"
DEFAULT_LOOP = f"{AGENT}.default_agent_loop"


def get(config: DictConfig, key: str) -> Any:
    """Return the value at a dotted key; None if there is none."""
    return OmegaConf.select(config, key)


def unknown(value: object, known: Iterable[str], more: str = "") -> str:
    """Return the reason why a value that is none of the known ones cannot work.

    Args:
        value: the value found.
        known: the valid values.
        more: text after the list.
    """
    names = list(known)
    return f"expected one of {', '.join(names)}{more}.{did_you_mean(value, names)}"


def number(config: DictConfig, key: str, *, integer: bool = False) -> Any:
    """Return the number at a key; None if there is none.

    Raises:
        ConfigError: it is not a finite number.
    """
    value = get(config, key)
    if value is None:
        return None
    wanted = int if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
        raise refuse(key, value, f"expected {'an integer' if integer else 'a finite number'}")
    return value


def grows_trees(config: DictConfig) -> bool:
    """Return whether verl's config selects the tree rollout as its sampler."""
    return bool(get(config, SAMPLER) == TREE_MANAGER)


def records_chains(config: DictConfig) -> bool:
    """Return whether verl's config selects the rollout of recorded chains as its sampler."""
    return bool(get(config, SAMPLER) == CHAIN_MANAGER)
