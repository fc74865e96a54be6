"""Order of the command line: overrides before a preset of this package yield to it, overrides after it win.

Hydra applies every ``key=value`` after all groups, independent of its position, so a recipe that ends in ``"$@"`` would
override the preset that its user appends: ``algorithm.adv_estimator=grpo ... +atpo=tree`` would train GRPO. Hence,
before Hydra composes the config, :func:`split` removes from the command line

- overrides before a preset of settings that the preset sets as well, except those under ``algorithm.atpo``, which
  verl's recipes do not have;
- all presets of a group but the last.

The user's config files are not part of the command line, and are composed as Hydra does. If Hydra refuses an override
because there is no such key, the closest key is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from verl_atpo.config import ROOT_KEY
from verl_atpo.seams.wrap import wrap_once
from verl_atpo.settings import did_you_mean
from verl_atpo.startup.presets import PRESETS


@dataclass(frozen=True)
class Replaced:
    """An override that yielded to a preset after it.

    Attributes:
        key: dotted name of the setting.
        value: its value.
        line: the override as it was written.
        preset: the preset that replaced it, e.g. ``+atpo=tree``.
    """

    key: str
    value: Any
    line: str
    preset: str


def split(overrides: Sequence[str]) -> tuple[list[str], list[Replaced]]:
    """Divide a command line's overrides into those that apply and those that yield to a preset.

    Args:
        overrides: in the order in which they were written.

    Returns:
        Overrides that apply, in the same order, and those that yielded. If Hydra cannot parse the overrides, all
        apply, so that Hydra reports the error.

    Examples:
        >>> split(["algorithm.adv_estimator=grpo", "trainer.nnodes=2", "+atpo=tree"])[0]
        ['trainer.nnodes=2', '+atpo=tree']
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return list(overrides), []
    held: list[str] = []
    replaced: list[Replaced] = []
    deciding: dict[str, str] = {}  # setting or group -> the later preset that decides
    for override in reversed(parsed):
        line, key = str(override.input_line), override.key_or_group
        if key in deciding:
            replaced.append(Replaced(key, override.value(), line, deciding[key]))
            continue
        held.append(line)
        if (preset := _preset(override)) is not None:
            deciding |= dict.fromkeys((key, *settings_of(preset)), line)
    return held[::-1], replaced[::-1]


def settings_of(preset: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a preset outside ``algorithm.atpo``, by dotted name."""
    settings: dict[str, Any] = {}
    for name, value in preset.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            settings[key] = value
        elif key != ROOT_KEY:
            settings |= settings_of(value, f"{key}.")
    return settings


def _preset(override: Override) -> Mapping[str, Any] | None:
    """Return the preset that an override selects; None for a setting, a sweep or a group of another package."""
    if override.type == OverrideType.DEL or override.is_sweep_override():
        return None
    return PRESETS.get(override.key_or_group, {}).get(str(override.value()))


def _hint(message: str, composed: Callable[[list[str]], DictConfig], held: Sequence[str]) -> str | None:
    """Suggest a replacement for an override whose key is not in verl's config; None for any other error.

    Args:
        message: Hydra's error message.
        composed: composes a config from other overrides.
        held: the overrides that were composed.
    """
    found = re.search(r"Could not override '([\w.@/]+)'", message)
    if found is None:
        return None
    key = found[1]
    kept = [line for line in held if line.lstrip("+~").partition("=")[0] != key]
    try:
        keys = _keys(composed(kept))
    except HydraException:
        return None
    if key == ROOT_KEY or key.startswith(f"{ROOT_KEY}."):
        return f"verl_atpo: {key} is there with a preset, e.g. +atpo=tree or +atpo=chain; without one write +{key}=..."
    near = did_you_mean(key, keys) or _same_name(key, keys)
    return f"verl_atpo: {key} is no setting of verl's.{near or f' If it is new, write +{key}=...'}"


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Yield the dotted names of all settings."""
    keys = []
    for name in node:
        keys.append(f"{prefix}{name}")
        child = None if OmegaConf.is_missing(node, name) else node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            keys += _keys(child, f"{prefix}{name}.")
    return keys


def _same_name(key: str, keys: Sequence[str]) -> str:
    """Return a sentence that names a setting with the same last part in another group."""
    last = key.rpartition(".")[2]
    return next((f" Did you mean {each}?" for each in keys if each.rpartition(".")[2] == last), "")


def obey_order() -> None:
    """Make Hydra compose only the overrides that :func:`split` keeps; may be called again.

    ``hydra.overrides.task``, and so ``.hydra/overrides.yaml``, still hold the command line as it was written.
    """
    wrap_once(ConfigLoaderImpl, "load_configuration", _in_order)


def _in_order(compose: Any) -> Any:
    def in_order(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        held, replaced = split(overrides)
        try:
            config = compose(self, config_name, held, *args, **kwargs)
        except ConfigCompositionException as error:
            if (
                hint := _hint(str(error), lambda kept: compose(self, config_name, kept, *args, **kwargs), held)
            ) is None:
                raise
            raise ConfigCompositionException(f"{error}\n{hint}") from error
        if replaced:
            hydra = set(config.hydra.overrides.hydra)
            config.hydra.overrides.task = [line for line in overrides if line not in hydra]
        return config

    return in_order
