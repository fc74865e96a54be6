"""The banner of a run: its estimator, loss, trees and tools, and the overrides that replaced preset settings."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from verl_atpo.config import AtpoConfig
from verl_atpo.method.scheme import find_scheme
from verl_atpo.startup.order import settings_of, split
from verl_atpo.startup.presets import ATPO_PRESETS, PRESETS
from verl_atpo.startup.rules.tool_files import find_file, import_class, load_yaml
from verl_atpo.startup.verl_config import (
    ACTOR,
    AGENT,
    DEFAULT_LOOP,
    ESTIMATOR,
    LOSS,
    MULTI_TURN,
    ROLLOUT,
    get,
    grows_trees,
    records_chains,
)

WATCHED = {
    ESTIMATOR: "turns get no advantage of their own",
    LOSS: "the loss has no ratio per turn",
    f"{ACTOR}.loss_agg_mode": "rows have other weights in the loss",
    f"{ACTOR}.clip_ratio_low": "the clip range is not the one for ratios per turn",
    f"{ACTOR}.clip_ratio_high": "the clip range is not the one for ratios per turn",
    f"{AGENT}.agent_loop_manager_class": "another class samples",
}
"""Setting of a preset -> consequence of an override that replaces it."""


def banner(config: DictConfig, atpo: AtpoConfig) -> str:
    """Format the banner, one line per part of the run."""
    low, high = (
        get(config, f"{ACTOR}.clip_ratio_{side}") or get(config, f"{ACTOR}.clip_ratio") for side in ("low", "high")
    )
    lines = {
        "estimator": get(config, ESTIMATOR),
        "loss": f"{get(config, LOSS)}, {get(config, f'{ACTOR}.loss_agg_mode')}",
        "clip": f"importance ratio between 1 - {low} and 1 + {high}",
    }
    if grows_trees(config):
        expansion = atpo.expansion
        lines["trees"] = (
            f"M={expansion.initial_chains}, K={expansion.branches_per_round}, L={expansion.rounds}: "
            f"{expansion.leaves} leaves, turns selected by {expansion.strategy}, budget {expansion.budget.value}"
        )
        lines["credit"] = ", ".join(
            f"{name}={value}" for name, value in atpo.to_mapping()["credit"].items() if value is not None
        )
        lines |= find_scheme(atpo, get(config, ESTIMATOR)).describe()
    elif records_chains(config):
        lines["trees"] = f"none: {get(config, f'{ROLLOUT}.n')} recorded chains per prompt"
    else:
        lines["trees"] = "none: verl's own sampler"
    if grows_trees(config) or records_chains(config):
        lines["agent loop"] = f"{get(config, DEFAULT_LOOP)} (a data row may name another)"
        lines["tools"] = ", ".join(_tools(config)) or "none"
    head = ["verl_atpo runs with", *(f"  {name}: {text}" for name, text in lines.items())]
    return "\n".join([*head, *(f"  {line}" for line in yielded(config))])


def _tools(config: DictConfig) -> Iterator[str]:
    from verl_atpo.tools.contract import branching_of

    key = f"{MULTI_TURN}.tool_config_path"
    if path := get(config, key):
        for tool in load_yaml(key, find_file(key, path))["tools"]:
            kind = import_class(key, tool["class_name"])
            yield f"{kind.__name__} ({branching_of(kind).value} in expansions)"
    if path := get(config, f"{MULTI_TURN}.function_tool_path"):
        yield f"functions of {path} (stateless in expansions)"


def yielded(config: DictConfig) -> Iterator[str]:
    """Yield a line for each override before a preset on the command line that yields to it."""
    yield from replaced_presets(config)
    for each in split(_command_line(config))[1]:
        value = get(config, each.key)
        if each.key not in PRESETS and value != each.value:
            yield f"{each.line} yields to {each.preset}: it is {value}"


def replaced_presets(config: DictConfig) -> Iterator[str]:
    """Yield a line for each preset before another one of its kind, of which the last applies."""
    for each in split(_command_line(config))[1]:
        if each.key in PRESETS:
            yield f"{each.line} yields to {each.preset}"


def overridden(config: DictConfig) -> Iterator[str]:
    """Yield a warning for each setting of ``+atpo=...`` that a later override or a config file replaces."""
    choice = get(config, "hydra.runtime.choices.atpo")
    if choice is None:
        return
    settings = settings_of(ATPO_PRESETS[choice])
    after = {line.lstrip("+").partition("=")[0]: line for line in split(_command_line(config))[0]}
    for key in WATCHED.keys() & settings.keys():
        value, wanted = get(config, key), settings[key]
        if value != wanted and not str(wanted).startswith("${"):
            where = f"{after[key]} after +atpo={choice}" if key in after else f"{key}={value} of a config file"
            yield f"{where} replaces its {wanted}: {WATCHED[key]}. Delete it if that is not meant."


def _command_line(config: DictConfig) -> list[str]:
    return [str(line) for line in get(config, "hydra.overrides.task") or ()]
