"""The order of the command line: what stands before a word of ours gives way to it, what stands behind it wins.

Hydra applies every ``key=value`` after all groups, wherever it stands, so a recipe that ends in ``"$@"`` would override
the word that its user appends: ``algorithm.adv_estimator=grpo ... +atpo=tree`` would train GRPO. Hence, before Hydra
composes, :func:`split` takes out of the command line

- settings before a word that the word's preset sets too, except those under ``algorithm.atpo``, which no recipe of
  verl's has: whoever writes them means them;
- all words of a group but the last.

What the user's own config files say is none of the command line, and stays as Hydra composes it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig

from verl_atpo.config import ROOT_KEY
from verl_atpo.startup.presets import PRESETS


@dataclass(frozen=True)
class GaveWay:
    """A setting of the command line that a word behind it replaced.

    Attributes:
        key: dotted name of the setting.
        value: what it was set to.
        line: the setting as it was written.
        word: what replaced it, e.g. ``+atpo=tree``.
    """

    key: str
    value: Any
    line: str
    word: str


def split(overrides: Sequence[str]) -> tuple[list[str], list[GaveWay]]:
    """Divide a command line's overrides into those that hold and those that give way.

    Args:
        overrides: in the order in which they were written.

    Returns:
        What holds, in the same order, and what gave way. Where Hydra cannot read the overrides, all hold: it says why.

    Example:
        >>> split(["algorithm.adv_estimator=grpo", "trainer.nnodes=2", "+atpo=tree"])[0]
        ['trainer.nnodes=2', '+atpo=tree']
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return list(overrides), []
    held: list[str] = []
    gave_way: list[GaveWay] = []
    words: dict[str, str] = {}  # setting or group -> the word behind that decides
    for override in reversed(parsed):
        line, key = str(override.input_line), override.key_or_group
        if key in words:
            gave_way.append(GaveWay(key, override.value(), line, words[key]))
            continue
        held.append(line)
        if (preset := _preset(override)) is not None:
            words |= dict.fromkeys((key, *settings_of(preset)), line)
    return held[::-1], gave_way[::-1]


def settings_of(preset: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a preset sets outside ``algorithm.atpo``, by dotted name."""
    settings: dict[str, Any] = {}
    for name, value in preset.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            settings[key] = value
        elif key != ROOT_KEY:
            settings |= settings_of(value, f"{key}.")
    return settings


def _preset(override: Override) -> Mapping[str, Any] | None:
    """The preset that an override chooses; None where it is a setting, a sweep or somebody else's group."""
    if override.type == OverrideType.DEL or override.is_sweep_override():
        return None
    return PRESETS.get(override.key_or_group, {}).get(str(override.value()))


def obey_order() -> None:
    """Have Hydra compose what :func:`split` lets through; may be called again.

    ``hydra.overrides.task``, and with it ``.hydra/overrides.yaml``, keep the command line as it was written.
    """
    compose = ConfigLoaderImpl.load_configuration
    if hasattr(compose, "__wrapped__"):
        return

    @functools.wraps(compose)
    def in_order(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        held, gave_way = split(overrides)
        config = compose(self, config_name, held, *args, **kwargs)
        if gave_way:
            hydra = set(config.hydra.overrides.hydra)
            config.hydra.overrides.task = [line for line in overrides if line not in hydra]
        return config

    ConfigLoaderImpl.load_configuration = in_order  # type: ignore[method-assign]
