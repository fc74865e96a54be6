"""The budget of the methods: their trees, simulated on the recipes' settings."""

from __future__ import annotations

import asyncio

from benchmarks.budget.__main__ import table
from benchmarks.budget.simulate import TurnLengths, sample_prompt
from tests.assets.recipe_configs import METHODS, compose_arguments, recipe_arguments, rollout_of
from verl_atpo.config import AtpoConfig, ExpansionConfig


def test_every_method_has_22_leaves_to_train_on():
    trained = [method for method in METHODS if method != "react"]
    leaves = {
        method: asyncio.run(
            sample_prompt(
                rollout_of(compose_arguments(recipe_arguments("train.sh", METHOD=method))), TurnLengths(), seed=0
            )
        ).leaves
        for method in trained
    }
    assert leaves == dict.fromkeys(trained, 22)


def test_simulated_tokens_are_counted_right():
    """Without chance: 3 turns of 10 tokens each, 5 tokens of observation behind the first two, a prompt of 7."""
    fixed = TurnLengths(0.0, max_turns=3, median_tokens=10.0, sigma=0.0, observation_tokens=5, prompt_tokens=7)
    chains = AtpoConfig(expansion=ExpansionConfig(initial_chains=4, rounds=0))
    sampled = asyncio.run(sample_prompt(chains, fixed, seed=0))
    # 4 chains x 30 sampled tokens, 4 x (7 + 30 + 10) tokens to compute, 4 x 2 searches
    assert (sampled.sampled_tokens, sampled.trained_tokens, sampled.context_tokens) == (120, 120, 188)
    assert (sampled.leaves, sampled.tool_calls) == (4, 8)

    tree = AtpoConfig(expansion=ExpansionConfig(initial_chains=2, branches_per_round=2, rounds=1, strategy="random"))
    turns = set()
    for seed in range(5):
        shared = asyncio.run(sample_prompt(tree, fixed, seed))
        assert (shared.leaves, shared.trained_tokens, shared.context_tokens) == (4, 120, 188)
        assert shared.tool_calls == shared.sampled_tokens // 10 - 4
        turns.add(shared.sampled_tokens / 10)
    # 2 chains of 3 turns; a branch samples 3 turns more, or 2 where it is the second turn that is sampled again
    assert turns <= {10, 11, 12} and min(turns) < 12


def test_the_table_compares_with_grpo():
    column = {"mean": 100.0, "interval": 1.0}
    methods = {
        name: {
            "expansion": {"initial_chains": 2, "rounds": rounds, "branches_per_round": 3, "strategy": "entropy"},
            "filters_groups": name == "grpo",
            "per_prompt": {
                "leaves": {"mean": 5, "interval": 0.0},
                "sampled_tokens": column | {"mean": 100.0 - 20 * rounds},
                "trained_tokens": column,
                "tool_calls": column,
            },
        }
        for name, rounds in {"grpo": 0, "tree": 1}.items()
    }
    *_, grpo, tree = table(methods).splitlines()
    assert grpo == "| grpo | 2 | 5 * | 100 ± 1 (100%) | 100 ± 1 (100%) | 100 ± 1 (100%) |"
    assert tree == "| tree | 2 + 1·3, entropy | 5 | 80 ± 1 (80%) | 100 ± 1 (100%) | 100 ± 1 (100%) |"
