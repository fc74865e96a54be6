"""verl's own recipes with one preset appended: each composes and passes the checks, or is refused with the reason.

Composing all of them several times takes minutes on two cores, so that is done here for a sample:
those of several turns, and the first of every folder; of all, `python -m benchmarks.recipes` writes the page.
"""

from __future__ import annotations

import pytest
import verl  # noqa: F401 (main_ppo imports it before Hydra reads the command line)
from omegaconf import open_dict

from benchmarks import recipes
from benchmarks.recipes import BEGIN, END, NOT_ACCEPTED, ONE_TURN, PAGE, Recipe, composed, summary, what
from verl_atpo.startup.verl_config import CHAIN_MANAGER, TREE_MANAGER

RECIPES = recipes.recipes()
FIRST = {recipe.script.rpartition("/")[0]: recipe for recipe in reversed(RECIPES)}
SAMPLE = [recipe for recipe in RECIPES if recipe.has_turns or recipe in FIRST.values()]


def script(recipe: Recipe) -> str:
    return recipe.script


def page_rows() -> list[tuple[str, ...]]:
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    lines = [line for line in table.splitlines() if line.startswith("| `") and "/" in line]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


REFUSED = {row[0] for row in page_rows() if row[1] == NOT_ACCEPTED}
MENDED = {row[0] for row in page_rows() if row[3]} - REFUSED
TAKEN = [recipe for recipe in SAMPLE if f"`{recipe.script}`" not in MENDED | REFUSED]
WITH_TURNS = [recipe for recipe in TAKEN if recipe.has_turns]


def test_there_are_recipes_of_all_kinds():
    assert len(WITH_TURNS) >= 8 and len(TAKEN) >= 20 and len(RECIPES) >= 77
    assert len({recipe.script for recipe in RECIPES}) == len(RECIPES)
    options = " ".join(option for recipe in RECIPES for option in recipe.options)
    for name in ("gspo", "geo_mean", "cispo", "sapo", "dppo_tv", "gpg"):
        assert f"loss_mode={name} " in options
    for name in ("gdpo", "gpg", "rloo", "remax", "reinforce_plus_plus", "optimal_token_baseline"):
        assert f"adv_estimator={name} " in options


def test_the_page_has_every_recipe_and_counts_them():
    rows = page_rows()
    assert [row[0] for row in rows] == [f"`{recipe.script}`" for recipe in RECIPES]
    assert summary(rows) in PAGE.read_text()


@pytest.mark.parametrize("recipe", SAMPLE, ids=script)
def test_the_page_says_what_happens(recipe):
    expected = next(row for row in page_rows() if row[0] == f"`{recipe.script}`")
    assert recipe.row() == expected, "python -m benchmarks.recipes"


@pytest.mark.parametrize("recipe", WITH_TURNS, ids=script)
def test_the_tree_preset_grows_trees(recipe):
    config = composed(recipe, "+atpo=tree")
    rollout = config.actor_rollout_ref.rollout
    assert (config.algorithm.adv_estimator, rollout.n, rollout.agent.agent_loop_manager_class) == (
        "atpo",
        12,
        TREE_MANAGER,
    )
    assert recipe.outcome("+atpo=tree") == "passes"


@pytest.mark.parametrize("recipe", TAKEN, ids=script)
def test_the_chain_preset_sets_the_loss_and_keeps_the_rest(recipe):
    before, after = composed(recipe), composed(recipe, "+atpo=chain")
    assert "atpo" not in before.algorithm and before.actor_rollout_ref.actor.policy_loss.loss_mode != "atpo"
    assert after.algorithm.adv_estimator == "grpo" and after.actor_rollout_ref.actor.policy_loss.loss_mode == "atpo"
    assert after.actor_rollout_ref.actor.clip_ratio_low == 0.003
    agent = after.actor_rollout_ref.rollout.agent
    with open_dict(agent):
        assert agent.pop("agent_loop_manager_class") == CHAIN_MANAGER
    assert after.actor_rollout_ref.rollout == before.actor_rollout_ref.rollout and after.data == before.data


def test_what_verl_refuses_is_left_out_and_no_more():
    """One with settings that verl does not have, one with an engine that it does not have."""
    mended = next(recipe for recipe in RECIPES if recipe.script.endswith("multiturn_curriculum_fsdp.sh"))
    taken, refused = mended.as_verl_takes_it()
    assert taken is not None and refused == ["data.sampler.class_name", "data.sampler.class_path"]
    assert set(mended.options) - set(taken.options) == {o for o in mended.options if o.startswith("data.sampler.")}
    strange = next(recipe for recipe in RECIPES if recipe.script.endswith("qwen3_8b_mindspeed.sh"))
    assert strange.as_verl_takes_it() == (None, ["model_engine/mindspeed"])


def test_trees_of_a_single_turn_are_refused_with_the_way_out():
    for row in page_rows():
        if not row[0].startswith("`sglang_multiturn/"):
            assert row[1].startswith((ONE_TURN, "refused: `", NOT_ACCEPTED))
    plain = FIRST["grpo_trainer"]
    assert "or use +atpo=chain" in plain.outcome("+atpo=tree")


@pytest.mark.parametrize(
    ("refusal", "setting"),
    [
        ("Could not override 'a.b'.\nTo append to your config use +a.b=1", "a.b"),
        ("Could not append to config. An item is already at 'a.c'.\nEither remove + prefix: 'a.c=1'", "a.c"),
        ("In 'recipe': Could not find 'engine/x'\n\nAvailable options in 'engine'", "engine/x"),
        ("Error in call to target 'a.Config':\nTypeError(got an unexpected keyword argument 'tau')", "tau"),
        ("n_gpus (7) must be divisible\nby something", "n_gpus (7) must be divisible"),
    ],
)
def test_what_verl_refuses(refusal, setting):
    assert what(refusal) == setting
