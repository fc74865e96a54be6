"""Start-up checks of how verl's rollout samples: branches of one context have to differ, and trees have to fit."""

from __future__ import annotations

from omegaconf import DictConfig

from verl_atpo.config import ROOT_KEY, AtpoConfig
from verl_atpo.startup.verl_config import MULTI_TURN, ROLLOUT, get, number, refuse

COLDEST = 0.01
"""Lowest temperature and ``top_p`` that is not as good as greedy."""

SHORTEST = 16
"""Fewest response tokens in which two turns and an observation between them find room."""

SAME = "branches of one context would all be the same"


def check_sampling(config: DictConfig, atpo: AtpoConfig) -> None:
    """Check how trees are sampled.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    _check_size(config, atpo)
    _check_greedy(config)
    _check_turns(config)
    if get(config, f"{ROLLOUT}.calculate_log_probs") is False:
        refuse(
            f"{ROLLOUT}.calculate_log_probs",
            False,
            f"the tree branches where the sampled tokens' log-probs are low; set {ROLLOUT}.calculate_log_probs=True",
        )
    if get(config, f"{ROLLOUT}.full_determinism"):
        refuse(
            f"{ROLLOUT}.full_determinism",
            True,
            f"verl gives every request the same seed, so {SAME}; set it to False, or use +atpo=chain",
        )
    if get(config, f"{ROLLOUT}.ignore_eos"):
        refuse(f"{ROLLOUT}.ignore_eos", True, "no turn would end before the response is full; set it to False")


def _check_size(config: DictConfig, atpo: AtpoConfig) -> None:
    n, leaves = get(config, f"{ROLLOUT}.n"), atpo.expansion.leaves
    if n != leaves:
        expansion = atpo.expansion
        refuse(
            f"{ROLLOUT}.n",
            n,
            f"{ROOT_KEY}.expansion grows M + L * K = {expansion.initial_chains} + {expansion.rounds} * "
            f"{expansion.branches_per_round} = {leaves} leaves per prompt; set {ROLLOUT}.n={leaves}",
        )


def _check_greedy(config: DictConfig) -> None:
    temperature = number(config, f"{ROLLOUT}.temperature")
    if temperature is None or temperature < COLDEST:
        refuse(f"{ROLLOUT}.temperature", temperature, f"greedy {SAME}; set a temperature above 0, e.g. 1.0")
    if get(config, f"{ROLLOUT}.do_sample") is False:
        refuse(f"{ROLLOUT}.do_sample", False, f"greedy {SAME}; set it to True")
    top_k = number(config, f"{ROLLOUT}.top_k", integer=True)
    if top_k == 1:
        refuse(f"{ROLLOUT}.top_k", top_k, f"one token to choose from is greedy, {SAME}; set -1 for no limit")
    top_p = number(config, f"{ROLLOUT}.top_p")
    if top_p is not None and not COLDEST <= top_p <= 1:
        refuse(f"{ROLLOUT}.top_p", top_p, f"expected {COLDEST} to 1 (near 0 is greedy, {SAME}); set 1.0 for no limit")


def _check_turns(config: DictConfig) -> None:
    for key in (f"{MULTI_TURN}.max_assistant_turns", f"{MULTI_TURN}.max_user_turns"):
        turns = number(config, key, integer=True)
        least = 2 if key.endswith("max_assistant_turns") else 1
        if turns is not None and turns < least:
            refuse(key, turns, f"trees need trajectories of two turns; set at least {least}, or null for no limit")
    for key in ("data.max_response_length", f"{ROLLOUT}.response_length"):
        length = number(config, key, integer=True)
        if length is not None and length < SHORTEST:
            refuse(
                key,
                length,
                f"two turns with an observation between them need more tokens (turns, observations and all count); "
                f"set at least {SHORTEST}",
            )
    cut = number(config, f"{MULTI_TURN}.max_tool_response_length", integer=True)
    if cut is not None and cut < 1:
        refuse(f"{MULTI_TURN}.max_tool_response_length", cut, "every observation would be empty; set e.g. 4096")
