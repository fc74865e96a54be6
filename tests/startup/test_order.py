"""Overrides before one of our presets yield to it; overrides after it win, or are refused."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import verl  # noqa: F401 (main_ppo imports it before Hydra reads the command line)
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.errors import ConfigCompositionException
from hypothesis import given
from hypothesis import strategies as st

from verl_atpo.startup.driver import CheckConfig
from verl_atpo.startup.order import obey_order, settings_of, split
from verl_atpo.startup.presets import ATPO_PRESETS, PRESETS
from verl_atpo.startup.verl_config import CHAIN_MANAGER, TREE_MANAGER

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
N, ESTIMATOR, LOW, HIGH = (
    f"{ROLLOUT}.n",
    "algorithm.adv_estimator",
    f"{ACTOR}.clip_ratio_low",
    f"{ACTOR}.clip_ratio_high",
)
RECIPE = (
    f"{ESTIMATOR}=grpo",
    f"{ACTOR}.policy_loss.loss_mode=gspo",
    f"{ACTOR}.loss_agg_mode=token-mean",
    f"{LOW}=0.2",
    f"{HIGH}=0.28",
    f"{N}=5",
    f"{ROLLOUT}.calculate_log_probs=False",
    f"+{ROLLOUT}.agent.agent_loop_manager_class=their.Manager",
)
"""All that verl's recipes set of what `+atpo=tree` sets."""

OTHERS = ("trainer.nnodes=2", "data.train_batch_size=32", "algorithm.norm_adv_by_std_in_grpo=False")


def composed(*overrides: str, **kwargs):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides), **kwargs)


def said(caplog: pytest.LogCaptureFixture, *overrides: str) -> str:
    with caplog.at_level(logging.INFO, "verl_atpo"):
        CheckConfig().on_job_start(composed(*overrides, return_hydra_config=True))
    return caplog.text


def test_a_recipe_gives_way_to_the_word_behind_it():
    config = composed(*RECIPE, *OTHERS, "+atpo=tree", "+agent=search")
    alone = composed("+atpo=tree", "+agent=search", *OTHERS)
    assert config == alone
    assert (config.algorithm.adv_estimator, config.actor_rollout_ref.rollout.n) == ("atpo", 12)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == TREE_MANAGER


def test_what_stands_behind_wins():
    config = composed("+atpo=tree", *(setting.lstrip("+") for setting in RECIPE), *OTHERS)
    assert (config.algorithm.adv_estimator, config.actor_rollout_ref.rollout.n) == ("grpo", 5)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == "their.Manager"


def test_what_stands_behind_and_cannot_work_is_refused(caplog):
    with pytest.raises(SystemExit, match=r"rollout.n=5 cannot work.* set actor_rollout_ref.rollout.n=12"):
        said(caplog, *RECIPE, "+atpo=tree", "+agent=search", f"{N}=5")


def test_chain_takes_the_loss_and_leaves_the_number_of_rows():
    config = composed(*RECIPE, "+atpo=chain")
    assert (config.actor_rollout_ref.actor.policy_loss.loss_mode, config.actor_rollout_ref.rollout.n) == ("atpo", 5)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == CHAIN_MANAGER


def test_every_word_follows_the_rule():
    assert composed("trainer.nnodes=4", f"{ROLLOUT}.dtype=bfloat16", "+platform=cpu").trainer.nnodes == 1
    multi_turn = composed(f"{ROLLOUT}.multi_turn.format=llama3_json", "+agent=search").actor_rollout_ref.rollout
    assert multi_turn.multi_turn.format == "hermes"


def test_the_last_word_of_a_group_decides():
    config = composed("+atpo=paper", f"{LOW}=0.2", "+atpo=tree", f"{HIGH}=0.3")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (rollout.n, actor.clip_ratio_low, actor.clip_ratio_high) == (12, 0.003, 0.3)


def test_settings_of_the_method_hold_wherever_they_stand():
    config = composed("algorithm.atpo.expansion.rounds=1", f"{N}=5", "+atpo=tree", "algorithm.atpo.dump_every=3")
    assert (config.algorithm.atpo.expansion.rounds, config.actor_rollout_ref.rollout.n) == (1, 9)
    assert config.algorithm.atpo.dump_every == 3


def test_the_command_line_is_kept_as_it_was_written():
    line = ["hydra.run.dir=out", *RECIPE, "+atpo=tree", *OTHERS]
    hydra = composed(*line, return_hydra_config=True).hydra
    assert list(hydra.overrides.task) == line[1:] and list(hydra.overrides.hydra) == line[:1]


def test_without_a_word_nothing_changes():
    assert split([*RECIPE, *OTHERS]) == ([*RECIPE, *OTHERS], [])
    assert composed(f"{N}=5", "+atpo=chain").actor_rollout_ref.rollout.n == 5
    for line in (
        ["a=b=c", "+atpo=tree"],
        [f"{N}=5", "+atpo=mine"],
        [f"{N}=5", "~atpo"],
        [f"{N}=5", "+atpo=tree,chain"],
    ):
        assert split(line) == (line, [])


def test_hydra_is_wrapped_once():
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    before = ConfigLoaderImpl.load_configuration
    obey_order()
    assert ConfigLoaderImpl.load_configuration is before


def test_presets_set_values_at_dotted_names():
    assert settings_of(ATPO_PRESETS["chain"]) == {
        ESTIMATOR: "grpo",
        f"{ACTOR}.policy_loss.loss_mode": "atpo",
        f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean",
        LOW: 0.003,
        HIGH: 0.004,
        f"{ROLLOUT}.agent.agent_loop_manager_class": CHAIN_MANAGER,
    }
    assert not any(key.startswith("algorithm.atpo") for key in settings_of(ATPO_PRESETS["tree"]))


SETTINGS = [*RECIPE, *OTHERS, "+atpo=tree", "+atpo=chain", "+platform=cpu", "trainer.n_gpus_per_node=8"]


@given(st.permutations(SETTINGS), st.integers(0, len(SETTINGS)))
def test_a_setting_holds_unless_a_word_behind_it_sets_the_same(line, length):
    """The slow rule: look at every word behind every setting, and at none that gave way itself."""
    line = line[:length]

    def key(place: int) -> str:
        return line[place].lstrip("+").partition("=")[0]

    def decides(place: int) -> bool:
        return key(place) in PRESETS and key(place) not in map(key, range(place + 1, length))

    def gives_way(place: int) -> bool:
        words = (line[later].lstrip("+").split("=") for later in range(place + 1, length) if decides(later))
        return any(key(place) in {group, *settings_of(PRESETS[group][name])} for group, name in words)

    held, replaced = split(line)
    assert held == [line[place] for place in range(length) if not gives_way(place)]
    assert [each.line for each in replaced] == [line[place] for place in range(length) if gives_way(place)]


def test_the_banner_has_a_line_for_each_setting_that_gave_way(caplog):
    text = said(caplog, *RECIPE, f"{ROLLOUT}.temperature=0.9", "+atpo=paper", "+atpo=tree", "+agent=search")
    for words in (
        f"{ESTIMATOR}=grpo yields to +atpo=tree: it is atpo",
        f"{ACTOR}.policy_loss.loss_mode=gspo yields to +atpo=tree: it is atpo",
        f"{ACTOR}.loss_agg_mode=token-mean yields to +atpo=tree: it is seq-mean-token-mean",
        f"{LOW}=0.2 yields to +atpo=tree: it is 0.003",
        f"{HIGH}=0.28 yields to +atpo=tree: it is 0.004",
        f"{N}=5 yields to +atpo=tree: it is 12",
        f"{ROLLOUT}.calculate_log_probs=False yields to +atpo=tree: it is True",
        f"agent_loop_manager_class=their.Manager yields to +atpo=tree: it is {TREE_MANAGER}",
        "+atpo=paper yields to +atpo=tree",
    ):
        assert words in text
    assert text.count("yields to") == 9 and "WARNING" not in text


def test_what_says_the_same_needs_no_line(caplog):
    same = f"{ROLLOUT}.calculate_log_probs=true", f"{ESTIMATOR}=atpo"
    assert "yields to" not in said(caplog, *same, "+atpo=tree", "+agent=search")


def test_what_stands_behind_and_takes_a_presets_place_is_warned_of(caplog):
    text = said(caplog, *RECIPE, "+atpo=tree", "+agent=search", f"{ESTIMATOR}=grpo", f"{HIGH}=0.28", "trainer.nnodes=2")
    assert text.count("WARNING") == 2  # nothing of credit that the estimator does not read: it is said already
    assert f"{ESTIMATOR}=grpo after +atpo=tree replaces its atpo: turns get no advantage of their own" in text
    assert f"{HIGH}=0.28 after +atpo=tree replaces its 0.004" in text


def test_what_a_config_file_says_is_left_to_hydra_and_warned_of(tmp_path, caplog):
    (tmp_path / "mine.yaml").write_text(
        "hydra: {searchpath: ['pkg://verl.trainer.config']}\n"
        "defaults: [ppo_trainer, {atpo: tree}, {agent: search}, _self_]\n"
        "algorithm: {adv_estimator: grpo}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base=None):
        config = compose("mine", overrides=["data.train_batch_size=8"], return_hydra_config=True)
    assert config.algorithm.adv_estimator == "grpo"
    CheckConfig().on_job_start(config)
    assert f"{ESTIMATOR}=grpo of a config file replaces its atpo" in caplog.text


SCRIPT = f"""
set -xeuo pipefail
{sys.executable} -W ignore -m verl.trainer.main_ppo {ESTIMATOR}=grpo {N}=5 {LOW}=0.2 "$@"
"""


def test_a_recipe_script_that_ends_in_its_arguments_needs_one_word_more(tmp_path):
    (tmp_path / "recipe.sh").write_text(SCRIPT)
    show = ["--cfg", "job", "--package", "actor_rollout_ref"]
    command = ["bash", "recipe.sh", "+atpo=tree", f"{HIGH}=0.01", *show, "--resolve"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    for line in (
        "rollout_n: 12",
        "clip_ratio_low: 0.003",
        "clip_ratio_high: 0.01",
        f"agent_loop_manager_class: {TREE_MANAGER}",
    ):
        assert line in run.stdout


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        (f"{ROLLOUT}.temperatur=1.0", f"Did you mean {ROLLOUT}.temperature?"),
        ("trainer.total_step=3", "Did you mean trainer.total_"),
        ("actor_rollout_ref.temperature=1.0", "Did you mean actor_rollout_ref"),
        (
            "algorithm.atpo.dump_dir=trees",
            "+atpo=tree or +atpo=chain; without one write +algorithm.atpo.dump_dir=...",
        ),
        ("zzz=1", "write +zzz=..."),
    ],
)
def test_a_key_that_verl_does_not_have_is_answered_with_the_nearest(override, hint):
    with pytest.raises(ConfigCompositionException) as refused:
        composed(override, "trainer.nnodes=2")
    assert hint in str(refused.value) and override.partition("=")[0] in str(refused.value)


def test_a_baseline_owns_our_settings():
    config = composed("algorithm.atpo.dump_dir=trees", "+atpo=chain")
    assert config.algorithm.atpo.dump_dir == "trees" and config.algorithm.adv_estimator == "grpo"
