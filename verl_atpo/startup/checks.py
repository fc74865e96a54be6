"""Checks of verl's whole config against the rules, for the driver and for the rollout's manager and workers.

Rules are in :mod:`verl_atpo.startup.rules`, by subject. A broken one raises :class:`ConfigError`, which names the
setting, its value and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from verl_atpo.config import ROOT_KEY, AtpoConfig, ConfigError
from verl_atpo.method.scheme import Scheme, find_scheme
from verl_atpo.packed.checks import is_packed
from verl_atpo.settings import refuse
from verl_atpo.startup.rules.loops import REMEDY, SINGLE_TURN
from verl_atpo.startup.rules.rule import Run, Stage
from verl_atpo.startup.rules.table import broken_rules
from verl_atpo.startup.verl_config import DEFAULT_LOOP, ESTIMATOR, get


def is_used(config: DictConfig) -> bool:
    """Return whether verl's config uses any part of this package."""
    run = Run(config)
    return run.trains_ours or run.samples_ours or get(config, ROOT_KEY) is not None or is_packed(config)


def scheme_of(config: DictConfig) -> Scheme:
    """Find the credit scheme that verl's whole config selects.

    Raises:
        ConfigError: invalid settings, or no such scheme.
    """
    return find_scheme(Run(config).atpo, get(config, ESTIMATOR))


def check_config(config: DictConfig) -> AtpoConfig:
    """Check verl's whole config for use with this package; only the files that it names are opened.

    Returns:
        The settings under ``algorithm.atpo``.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    run = Run(config)
    apply_rules(run, Stage.CONFIG)
    return run.atpo


def apply_rules(run: Run, stage: Stage, warn: Callable[[str], None] = lambda message: None) -> None:
    """Apply the rules of a stage.

    Args:
        run: config to check.
        stage: its rules are applied.
        warn: called with the message of each broken rule that only warns.

    Raises:
        ConfigError: the first rule that is broken.
    """
    for rule, message in broken_rules(run, stage):
        if not rule.warns:
            raise ConfigError(message)
        warn(message)


def check_agent_names(names: set[str]) -> None:
    """Refuse agent loops of a single turn, which leave nothing to re-sample.

    Args:
        names: agent loops that a batch of prompts names.

    Raises:
        ConfigError: one of them is verl's single-turn loop.
    """
    if SINGLE_TURN in names:
        raise refuse(DEFAULT_LOOP, SINGLE_TURN, REMEDY)
