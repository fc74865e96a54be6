"""Rules about sampling in verl's rollout: expansions of one context must differ, and trees must fit."""

from __future__ import annotations

from verl_atpo.config import ROOT_KEY
from verl_atpo.startup.rules.rule import Rule, Run, in_trees, never, number_rule
from verl_atpo.startup.verl_config import MULTI_TURN, ROLLOUT

HOTTEST = 10.0
"""Highest temperature at which sampling is not practically uniform over the vocabulary."""
COLDEST = 0.01
"""Lowest temperature and ``top_p`` that are not practically greedy."""
SHORTEST = 16
"""Fewest response tokens that hold two turns and an observation between them."""
SAME = "expansions of one context would all be the same"


def _size(run: Run) -> str | None:
    expansion = run.atpo.expansion
    if run.get(f"{ROLLOUT}.n") == expansion.leaves:
        return None
    return (
        f"{ROOT_KEY}.expansion grows M + L * K = {expansion.initial_chains} + {expansion.rounds} * "
        f"{expansion.branches_per_round} = {expansion.leaves} leaves per prompt; set {ROLLOUT}.n={expansion.leaves}"
    )


def _temperature(run: Run) -> str | None:
    value = run.number(f"{ROLLOUT}.temperature")
    return None if value is not None and value >= COLDEST else f"greedy {SAME}; set a temperature above 0, e.g. 1.0"


def _hot(run: Run) -> str | None:
    value = run.number(f"{ROLLOUT}.temperature")
    if value is None or value <= HOTTEST:
        return None
    return "tokens would be drawn at random, whatever the model says; set e.g. 1.0"


def _greedy_chains(run: Run) -> str | None:
    value, chains = run.number(f"{ROLLOUT}.temperature"), run.get(f"{ROLLOUT}.n")
    if value is None or value >= COLDEST:
        return None
    return f"the {chains} trajectories of a prompt would all be the same, and teach nothing; set e.g. 1.0"


def _compares_chains(run: Run) -> bool:
    several = isinstance(chains := run.get(f"{ROLLOUT}.n"), int) and chains > 1
    return several and not run.grows_trees and (run.records_chains or run.trains_ours)


def _turns(setting: str, least: int) -> Rule:
    why = f"trees need trajectories of two turns; set at least {least}, or null for no limit"
    return number_rule(setting, why, in_trees, integer=True, ge=least)


def _length(setting: str) -> Rule:
    why = (
        "two turns with an observation between them need more tokens (turns, observations and all count); set at "
        f"least {SHORTEST}"
    )
    return number_rule(setting, why, in_trees, integer=True, ge=SHORTEST)


RULES = (
    Rule(f"{ROLLOUT}.n", _size, in_trees),
    Rule(f"{ROLLOUT}.temperature", _temperature, in_trees),
    Rule(f"{ROLLOUT}.temperature", _greedy_chains, _compares_chains),
    Rule(f"{ROLLOUT}.temperature", _hot),
    never(f"{ROLLOUT}.do_sample", False, f"greedy {SAME}; set it to True", in_trees),
    never(f"{ROLLOUT}.top_k", 1, f"one token to choose from is greedy, {SAME}; set -1 for no limit", in_trees),
    number_rule(
        f"{ROLLOUT}.top_p",
        f"expected {COLDEST} to 1 (near 0 is greedy, {SAME}); set 1.0 for no limit",
        in_trees,
        ge=COLDEST,
        le=1,
    ),
    _turns(f"{MULTI_TURN}.max_assistant_turns", 2),
    _turns(f"{MULTI_TURN}.max_user_turns", 1),
    _length("data.max_response_length"),
    _length(f"{ROLLOUT}.response_length"),
    number_rule(
        f"{MULTI_TURN}.max_tool_response_length",
        "every observation would be empty; set e.g. 4096",
        in_trees,
        integer=True,
        ge=1,
    ),
    never(
        f"{ROLLOUT}.calculate_log_probs",
        False,
        f"turns are selected by their tokens' log-probs; set {ROLLOUT}.calculate_log_probs=True",
        in_trees,
    ),
    never(
        f"{ROLLOUT}.full_determinism",
        True,
        f"verl gives every request the same seed, so {SAME}; set it to False, or use +atpo=chain",
        in_trees,
    ),
    never(f"{ROLLOUT}.ignore_eos", True, "no turn would end before the response is full; set it to False", in_trees),
)
