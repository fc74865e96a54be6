"""Looking into verl's config, and refusing what stands there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from verl_atpo.settings import ConfigError, did_you_mean, show

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MULTI_TURN = f"{ROLLOUT}.multi_turn"
AGENT = f"{ROLLOUT}.agent"
MANAGER = "verl_atpo.rollout.TreeAgentLoopManager"


def get(config: DictConfig, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    return OmegaConf.select(config, key)


def refuse(key: str, value: object, why: str) -> NoReturn:
    """Raise for a setting that cannot work.

    Args:
        key: dotted name of the setting.
        value: what it is.
        why: what is wrong and what to do, without a full stop.
    """
    raise ConfigError(f"{key}={_shown(value)} cannot work: {why}.")


def refuse_unknown(key: str, value: object, known: Iterable[str], more: str = "") -> NoReturn:
    """Raise for a setting that is none of the known ones.

    Args:
        key: dotted name of the setting.
        value: what it is.
        known: what it may be.
        more: said after the list.
    """
    names = list(known)
    hint = did_you_mean(value, names)
    raise ConfigError(f"{key}={_shown(value)} cannot work: expected one of {', '.join(names)}{more}.{hint}")


def number(config: DictConfig, key: str, *, integer: bool = False) -> Any:
    """The number at a key; None where there is none.

    Raises:
        ConfigError: it is not a finite number.
    """
    value = get(config, key)
    if value is None:
        return None
    wanted = int if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
        refuse(key, value, f"expected {'an integer' if integer else 'a finite number'}")
    return value


def grows_trees(config: DictConfig) -> bool:
    """Whether verl's config has the tree rollout as its sampler."""
    return get(config, f"{AGENT}.agent_loop_manager_class") == MANAGER


def _shown(value: object) -> str:
    """As a command line has it: text without quotes."""
    return show(value)[1:-1] if isinstance(value, str) and len(repr(value)) < 200 and value else show(value)
