"""Checks of verl's whole config against the rules, for the driver and for the rollout's manager and workers.

Rules stand in :mod:`verl_atpo.startup.rules`, by subject; a broken one raises :class:`ConfigError` with the setting,
its value and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from verl_atpo.config import ROOT_KEY, AtpoConfig, ConfigError
from verl_atpo.method.scheme import Scheme, find_scheme
from verl_atpo.packed.checks import is_packed
from verl_atpo.startup.rules.loops import REMEDY, SINGLE_TURN
from verl_atpo.startup.rules.rule import Run, Stage
from verl_atpo.startup.rules.table import broken_rules
from verl_atpo.startup.verl_config import DEFAULT_LOOP, ESTIMATOR, MANAGER, get, refuse

__all__ = ["MANAGER", "check_agent_names", "check_config", "is_used", "read_config", "scheme_of"]


def is_used(config: DictConfig) -> bool:
    """Whether verl's config has anything of this package in it."""
    run = Run(config)
    return run.trains_ours or run.grows_trees or get(config, ROOT_KEY) is not None or is_packed(config)


def read_config(config: DictConfig) -> AtpoConfig:
    """The settings under ``algorithm.atpo`` of verl's whole config; all defaults where there are none.

    Raises:
        ConfigError: unknown key or impossible value.
    """
    return Run(config).atpo


def scheme_of(config: DictConfig) -> Scheme:
    """The credit scheme of a run of verl's whole config.

    Raises:
        ConfigError: bad settings, or no such scheme.
    """
    return find_scheme(read_config(config), get(config, ESTIMATOR))


def check_config(config: DictConfig) -> AtpoConfig:
    """Check verl's whole config for use with this package; nothing is opened or loaded but the files it names.

    Returns:
        The settings under ``algorithm.atpo``.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    run = Run(config)
    obey_rules(run, Stage.CONFIG)
    return run.atpo


def obey_rules(run: Run, stage: Stage, warn: Callable[[str], None] = lambda message: None) -> None:
    """Walk the rules of a stage.

    Args:
        run: what to look at.
        stage: whose rules.
        warn: gets the messages of rules that only warn.

    Raises:
        ConfigError: the first rule that is broken.
    """
    for rule, message in broken_rules(run, stage):
        if not rule.warns:
            raise ConfigError(message)
        warn(message)


def check_agent_names(names: set[str]) -> None:
    """Refuse loops that have one turn only, where there is nothing to sample again.

    Args:
        names: the agent loops that a batch of prompts asks for.

    Raises:
        ConfigError: one of them is verl's single-turn loop.
    """
    if SINGLE_TURN in names:
        refuse(DEFAULT_LOOP, SINGLE_TURN, REMEDY)
