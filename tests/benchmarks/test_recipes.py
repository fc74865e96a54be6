"""verl's own recipes with one word behind them: each composes and passes the checks, or is refused in words."""

from __future__ import annotations

import pytest
import verl  # noqa: F401 (main_ppo imports it before Hydra reads the command line)

from benchmarks import recipes
from benchmarks.recipes import BEGIN, END, PAGE, Recipe, verl_checks
from verl_atpo.startup.verl_config import MANAGER

RECIPES = recipes.recipes()
WITH_TURNS = [recipe for recipe in RECIPES if recipe.has_turns]
OF_ONE_TURN = [recipe for recipe in RECIPES if not recipe.has_turns]


def script(recipe: Recipe) -> str:
    return recipe.script


def test_there_are_recipes_of_both_kinds():
    assert len(WITH_TURNS) >= 8 and len(OF_ONE_TURN) >= 16
    assert len({recipe.script for recipe in RECIPES}) == len(RECIPES)
    assert {"gspo", "geo_mean", "cispo"} <= {each.partition("loss_mode=")[2] for r in RECIPES for each in r.options}


@pytest.mark.parametrize("recipe", RECIPES, ids=script)
def test_it_is_one_of_verls(recipe):
    """Without a word of ours it composes, passes verl's checks, and has nothing of this package."""
    config = recipe.compose()
    verl_checks(config)
    assert config.algorithm.adv_estimator == "grpo" and "atpo" not in config.algorithm


@pytest.mark.parametrize("recipe", WITH_TURNS, ids=script)
def test_a_word_turns_trees_on(recipe):
    config = recipe.compose("+atpo=tree")
    rollout = config.actor_rollout_ref.rollout
    assert (config.algorithm.adv_estimator, rollout.n, rollout.agent.agent_loop_manager_class) == ("atpo", 16, MANAGER)
    assert recipe.outcome("+atpo=tree") == "passes"


@pytest.mark.parametrize("recipe", RECIPES, ids=script)
def test_a_word_takes_the_loss_and_leaves_the_rest(recipe):
    before, after = recipe.compose(), recipe.compose("+atpo=chain")
    assert after.actor_rollout_ref.actor.policy_loss.loss_mode == "atpo"
    assert after.actor_rollout_ref.actor.clip_ratio_low == 0.003
    assert after.actor_rollout_ref.rollout == before.actor_rollout_ref.rollout and after.data == before.data
    assert recipe.outcome("+atpo=chain") == "passes"


@pytest.mark.parametrize("recipe", OF_ONE_TURN, ids=script)
def test_trees_of_a_single_turn_are_refused_with_the_way_out(recipe):
    refusal = recipe.outcome("+atpo=tree")
    assert refusal.startswith("refused: ") and ("+atpo=chain" in refusal or "enable_resource_pool=True" in refusal)


def test_the_page_has_the_table_that_the_command_writes(tmp_path, monkeypatch):
    copy = tmp_path / "recipes.md"
    copy.write_text(PAGE.read_text())
    monkeypatch.setattr(recipes, "PAGE", copy)
    recipes.main()
    assert copy.read_text() == PAGE.read_text(), "python -m benchmarks.recipes"
    assert copy.read_text().partition(BEGIN)[2].partition(END)[0].count("\n| `") == 2 * len(RECIPES)
