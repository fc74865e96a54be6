"""Settings under ``algorithm.atpo``, read from verl's group ``algorithm``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from verl_atpo.config import ROOT_KEY, AtpoConfig, Normalize
from verl_atpo.settings import ConfigError

GROUP, _, NAME = ROOT_KEY.rpartition(".")


def read_algorithm(algorithm: Any) -> AtpoConfig:
    """Read the settings under ``algorithm.atpo``; all defaults where there are none.

    verl's ``norm_adv_by_std_in_grpo=False`` (Dr. GRPO) is obeyed: z-scores become ``normalize=center``.

    Args:
        algorithm: verl's group: a mapping, or an object with attributes.

    Raises:
        ConfigError: unknown key or impossible value.
    """
    settings = entry(algorithm, NAME)
    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings, resolve=True)
    if settings is not None and not isinstance(settings, Mapping | AtpoConfig):
        raise ConfigError(f"{ROOT_KEY}={settings!r} cannot work: expected a group of settings.")
    atpo = settings if isinstance(settings, AtpoConfig) else AtpoConfig.from_mapping(settings)
    scaled = atpo.credit.normalize in (Normalize.ZSCORE, Normalize.ZSCORE_SAMPLE)
    if scaled and entry(algorithm, "norm_adv_by_std_in_grpo") is False:
        return dataclasses.replace(atpo, credit=dataclasses.replace(atpo.credit, normalize=Normalize.CENTER))
    return atpo


def entry(group: Any, name: str) -> Any:
    """Return an entry of one of verl's groups of settings, a mapping or an object; None where there is none."""
    if isinstance(group, Mapping) or hasattr(group, "get"):
        return group.get(name)
    return getattr(group, name, None)
