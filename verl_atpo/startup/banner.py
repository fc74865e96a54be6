"""What a run says of itself at its start: what it uses, and which settings took a preset's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_atpo.config import AtpoConfig
from verl_atpo.startup.loops import DEFAULT
from verl_atpo.startup.objective import ESTIMATOR, LOSS
from verl_atpo.startup.tool_files import find_file, import_class, load_yaml
from verl_atpo.startup.verl_config import ACTOR, AGENT, MULTI_TURN, ROLLOUT, get, grows_trees

WATCHED = {
    ESTIMATOR: "turns get no advantage of their own",
    LOSS: "the loss has no ratio per turn",
    f"{ACTOR}.loss_agg_mode": "rows weigh otherwise in the loss",
    f"{ACTOR}.clip_ratio_low": "the clip range is not the one for ratios per turn",
    f"{ACTOR}.clip_ratio_high": "the clip range is not the one for ratios per turn",
    f"{ROLLOUT}.n": "the number of leaves is no longer M + L * K",
    f"{AGENT}.agent_loop_manager_class": "no trees are grown",
}
"""What a preset sets -> what is lost when a recipe's own setting takes its place."""


def banner(config: DictConfig, atpo: AtpoConfig) -> str:
    """One line per thing that a run uses."""
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
            f"{expansion.leaves} leaves, branched by {expansion.strategy}"
        )
        lines["credit"] = ", ".join(
            f"{name}={value}" for name, value in atpo.to_mapping()["credit"].items() if value is not None
        )
        lines["agent loop"] = f"{get(config, DEFAULT)} (a data row may name another)"
        lines["tools"] = ", ".join(_tools(config)) or "none"
    else:
        lines["trees"] = "none: verl's own sampler"
    return "\n".join(["verl_atpo runs with", *(f"  {name}: {text}" for name, text in lines.items())])


def _tools(config: DictConfig) -> Iterator[str]:
    from verl_atpo.tools.contract import branching_of

    key = f"{MULTI_TURN}.tool_config_path"
    if path := get(config, key):
        for tool in load_yaml(key, find_file(key, path))["tools"]:
            kind = import_class(key, tool["class_name"])
            yield f"{kind.__name__} ({branching_of(kind).value} when a turn branches)"
    if path := get(config, f"{MULTI_TURN}.function_tool_path"):
        yield f"functions of {path} (stateless when a turn branches)"


def overridden(config: DictConfig) -> Iterator[str]:
    """Warnings for settings of the command line that replace what a preset of ours set, with the words to delete."""
    choice = get(config, "hydra.runtime.choices.atpo")
    if choice is None:
        return
    from verl_atpo.startup.presets import ATPO_PRESETS

    preset = OmegaConf.create(ATPO_PRESETS[choice])
    for override in get(config, "hydra.overrides.task") or ():
        key = str(override).lstrip("+").partition("=")[0]
        wanted: Any = OmegaConf.to_container(preset, resolve=False)
        for part in key.split("."):
            wanted = wanted.get(part) if isinstance(wanted, dict) else None
        if key in WATCHED and wanted is not None and get(config, key) != wanted and not str(wanted).startswith("${"):
            yield (
                f"{override} on the command line takes the place of +atpo={choice}'s {wanted}: {WATCHED[key]}. Delete "
                f"{override} if that is not meant."
            )
