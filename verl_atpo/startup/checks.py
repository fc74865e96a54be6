"""Start-up checks: what verl's whole config must look like for the tree to work.

Run in the driver before Ray starts when a preset is used (a Hydra callback, see ``plugin``), and in any case before the
first prompt (in the rollout's manager and workers).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from verl_atpo.config import ROOT_KEY, AtpoConfig, ConfigError
from verl_atpo.method.expansion import strategy_named
from verl_atpo.startup.trainer_modes import check_trainer_mode
from verl_atpo.training.checks import check_packed, is_packed

MANAGER = "verl_atpo.rollout.TreeAgentLoopManager"
SINGLE_TURN = "single_turn_agent"


def read_config(config: DictConfig) -> AtpoConfig:
    """The settings under ``algorithm.atpo`` of verl's whole config; all defaults where there are none.

    Raises:
        ConfigError: unknown key or impossible value.
    """
    settings = OmegaConf.select(config, ROOT_KEY)
    plain = OmegaConf.to_container(settings, resolve=True) if OmegaConf.is_config(settings) else settings
    if plain is not None and not isinstance(plain, Mapping):
        raise ConfigError(f"{ROOT_KEY}={plain!r} cannot work: expected a group of settings.")
    return AtpoConfig.from_mapping(plain)  # type: ignore[arg-type]


def check_config(config: DictConfig) -> AtpoConfig:
    """Check verl's whole config for use with this package.

    Returns:
        The settings under ``algorithm.atpo``.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    atpo = read_config(config)
    strategy_named(atpo.expansion.strategy)
    if _get(config, "algorithm.adv_estimator") == "atpo":
        _forbid(
            config,
            "algorithm.use_kl_in_reward",
            True,
            "the per-token KL penalty would be read as turn values; use actor_rollout_ref.actor.use_kl_loss=True",
        )
    if _get(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class") == MANAGER:
        _check_tree(config, atpo)
    check_trainer_mode(config)
    _check_logged_trees(atpo)
    if is_packed(config):
        check_packed(config)
    check_tool_files(config)
    return atpo


def _check_logged_trees(atpo: AtpoConfig) -> None:
    missing = [name for name in ("jinja2", "resvg_py") if importlib.util.find_spec(name) is None]
    if atpo.log_trees and missing:
        raise ConfigError(
            f"{ROOT_KEY}.log_trees={atpo.log_trees} cannot work: {' and '.join(missing)} cannot be imported, which "
            f"draw the trees; pip install 'verl-atpo[view]', or set {ROOT_KEY}.log_trees=0."
        )


def check_tool_files(config: DictConfig) -> None:
    """Look at the files that name the tools, without importing any.

    Raises:
        ConfigError: a file is missing or no YAML, or an entry lacks what verl needs of it.
    """
    multi_turn = "actor_rollout_ref.rollout.multi_turn"
    for key in (f"{multi_turn}.tool_config_path", f"{multi_turn}.function_tool_path"):
        path = _get(config, key)
        if path and not Path(path).is_file():
            raise ConfigError(f"{key}={path} cannot work: there is no such file (seen from {Path.cwd()}).")
    if path := _get(config, f"{multi_turn}.tool_config_path"):
        _check_tool_config(f"{multi_turn}.tool_config_path={path}", Path(path))


def _check_tool_config(setting: str, path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{setting} cannot work: the file is no YAML: {error}") from error
    tools = content.get("tools") if isinstance(content, dict) else None
    if not isinstance(tools, list) or not tools:
        raise ConfigError(f"{setting} cannot work: expected a list `tools` with an entry per tool.")
    for number, tool in enumerate(tools, start=1):
        where = f"{setting} cannot work: tool {number}"
        if not isinstance(tool, dict) or "." not in str(tool.get("class_name", "")):
            raise ConfigError(f"{where} needs `class_name: package.module.Class`, got {tool!r}.")
        if not isinstance(tool.get("config"), dict) or tool["config"].get("type") != "native":
            raise ConfigError(f"{where} ({tool['class_name']}) needs `config: {{type: native}}`.")
        schema = tool.get("tool_schema")
        if schema is not None and not (schema.get("function") or {}).get("name"):
            raise ConfigError(f"{where} ({tool['class_name']}) has a tool_schema without function.name; add it.")


def _check_tree(config: DictConfig, atpo: AtpoConfig) -> None:
    rollout = "actor_rollout_ref.rollout"
    _forbid(config, "trainer.use_v1", False, "the tree runs in verl's V1 trainer only; set trainer.use_v1=True")
    n, leaves = _get(config, f"{rollout}.n"), atpo.expansion.leaves
    if n != leaves:
        raise ConfigError(
            f"{rollout}.n={n} cannot work: {ROOT_KEY}.expansion grows M + L * K = {atpo.expansion.initial_chains} + "
            f"{atpo.expansion.rounds} * {atpo.expansion.branches_per_round} = {leaves} leaves per prompt; "
            f"set {rollout}.n={leaves}."
        )
    if not _get(config, f"{rollout}.calculate_log_probs"):
        raise ConfigError(
            f"{rollout}.calculate_log_probs=False cannot work: the tree branches where the sampled tokens' log-probs "
            f"are low; set {rollout}.calculate_log_probs=True."
        )
    temperature = _get(config, f"{rollout}.temperature")
    if not temperature or temperature <= 0:
        raise ConfigError(
            f"{rollout}.temperature={temperature} cannot work: greedy branches of a tree are all the same; set a "
            "temperature above 0, e.g. 1.0."
        )
    reward_model = _get(config, "reward.reward_model")
    if reward_model is not None and reward_model.enable and not reward_model.enable_resource_pool:
        raise ConfigError(
            "reward.reward_model.enable=True without a resource pool cannot work: a colocated reward model scores "
            "only after sampling, when the trees are gone; set reward.reward_model.enable_resource_pool=True or use a "
            "rule-based reward."
        )


def check_agent_names(names: set[str]) -> None:
    """Refuse loops that have one turn only, where there is nothing to branch.

    Args:
        names: the agent loops that a batch of prompts asks for.

    Raises:
        ConfigError: one of them is verl's single-turn loop.
    """
    if SINGLE_TURN in names:
        raise ConfigError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={SINGLE_TURN} cannot work: a loop of one turn has no "
            "turns to branch at; set actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent (or your own loop), "
            "or use +atpo=chain."
        )


def _get(config: DictConfig, key: str) -> Any:
    return OmegaConf.select(config, key)


def _forbid(config: DictConfig, key: str, value: object, remedy: str) -> None:
    if _get(config, key) == value:
        raise ConfigError(f"{key}={value} cannot work: {remedy}.")
