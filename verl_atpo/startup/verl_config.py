"""Access to verl's config: names of its settings, values at dotted keys, error messages for a value."""

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

ESTIMATOR = "algorithm.adv_estimator"
LOSS = f"{ACTOR}.policy_loss.loss_mode"
MODE = "trainer.v1.trainer_mode"
LOOPS = f"{AGENT}.agent_loop_config_path"
DEFAULT_LOOP = f"{AGENT}.default_agent_loop"


def get(config: DictConfig, key: str) -> Any:
    """Return the value at a dotted key; None if there is none."""
    return OmegaConf.select(config, key)


def refusal(key: str, value: object, why: str) -> str:
    """Return the error message for a setting that cannot work.

    Args:
        key: dotted name of the setting.
        value: its value.
        why: reason and remedy; a full stop is added if there is none.
    """
    return f"{key}={_shown(value)} cannot work: {why}{'' if why.endswith(('?', '.')) else '.'}"


def unknown(value: object, known: Iterable[str], more: str = "") -> str:
    """Return the reason why a value that is none of the known ones cannot work.

    Args:
        value: the value found.
        known: the valid values.
        more: text after the list.
    """
    names = list(known)
    return f"expected one of {', '.join(names)}{more}.{did_you_mean(value, names)}"


def refuse(key: str, value: object, why: str) -> NoReturn:
    """Raise ``ConfigError`` for a setting that cannot work; arguments as of :func:`refusal`."""
    raise ConfigError(refusal(key, value, why))


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
        refuse(key, value, f"expected {'an integer' if integer else 'a finite number'}")
    return value


def grows_trees(config: DictConfig) -> bool:
    """Return whether verl's config selects the tree rollout as its sampler."""
    return get(config, f"{AGENT}.agent_loop_manager_class") == MANAGER


def _shown(value: object) -> str:
    """Format a value as on a command line: text without quotes."""
    return show(value)[1:-1] if isinstance(value, str) and len(repr(value)) < 200 and value else show(value)
