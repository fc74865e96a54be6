"""Start-up checks: what verl's whole config must look like for the tree to work.

Run in the driver before Ray starts when a preset is used (a Hydra callback, see ``plugin``), and in any case before the
first prompt (in the rollout's manager and workers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_atpo.config import ROOT_KEY, AtpoConfig, ConfigError
from verl_atpo.expansion import strategy_named

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
    return atpo


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
