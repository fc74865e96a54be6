"""Presets under verl's real config, and what the start-up checks refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl.utils.import_utils import load_extern_object

from tests.assets.presets import changed_by, composed
from verl_atpo.config import AtpoConfig, ConfigError
from verl_atpo.method.scheme import settings_groups
from verl_atpo.startup.checks import check_agent_names, check_config
from verl_atpo.startup.verl_config import CHAIN_MANAGER


def test_unbiased_adds_rows_up_token_by_token():
    config = composed("+atpo=unbiased")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode) == ("atpo", "seq-mean-token-sum-norm")
    assert (config.algorithm.adv_estimator, rollout.n) == ("atpo", 16)
    settings = check_config(config)
    assert (settings.expansion.strategy, settings.credit.weights.value) == ("other_chains", "split")


def test_paper_is_the_authors_script():
    config = composed("+atpo=paper")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode) == ("atpo", "seq-mean-token-mean")
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.003, 0.004)
    assert (config.algorithm.adv_estimator, rollout.n) == ("atpo", 22)
    settings = OmegaConf.to_container(config.algorithm.atpo)
    schemes = {name: kind().__dict__ for name, kind in settings_groups().items()}
    defaults = AtpoConfig().to_mapping()
    assert settings == {
        **defaults,
        "expansion": {
            "initial_chains": 10,
            "branches_per_round": 6,
            "rounds": 2,
            "penalty": 0.05,
            "penalty_counts": "siblings",
            "strategy": "entropy",
            "schedule": "rounds",
            "start_after": 0.5,
            "in_flight": None,
            "budget": "fixed",
            "success": 1.0,
            "spares": 0,
            "first_at": 0.2,
            "last_at": 0.6,
        },
        "credit": {
            "backup": "child_softmax",
            "advantage": "value",
            "normalize": "zscore",
            "shared_turns": "per_leaf",
            "weights": "per_leaf",
            "tool_rewards": 0.0,
            "contexts": "separate",
            "mute_above": None,
            "baseline_weights": False,
            "scheme": None,
        },
        **schemes,
    }


def test_trees_for_the_loggers_need_what_draws_them(monkeypatch):
    config = composed(
        "+atpo=tree", "+agent=search", "actor_rollout_ref.rollout.name=vllm", "algorithm.atpo.log_trees=2"
    )
    assert check_config(config).log_trees == 2
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "resvg_py" else name)
    with pytest.raises(ConfigError, match=r"log_trees=2 cannot work: resvg_py .*verl-atpo\[view\]"):
        check_config(config)


@pytest.mark.parametrize("preset", ["tree", "paper"])
def test_tree_presets_set_only_what_they_must(preset):
    outside = {key for key in changed_by(f"+atpo={preset}") if not key.startswith("algorithm.atpo.")}
    assert outside <= {
        "algorithm.adv_estimator",
        "actor_rollout_ref.actor.policy_loss.loss_mode",
        "actor_rollout_ref.actor.loss_agg_mode",
        "actor_rollout_ref.actor.clip_ratio_low",
        "actor_rollout_ref.actor.clip_ratio_high",
        "actor_rollout_ref.rollout.n",
        "actor_rollout_ref.rollout.calculate_log_probs",
        "actor_rollout_ref.rollout.agent.agent_loop_manager_class",
    }
    assert (
        check_config(composed(f"+atpo={preset}")).expansion.leaves
        == composed(f"+atpo={preset}").actor_rollout_ref.rollout.n
    )


def test_chain_leaves_estimator_and_number_of_rows_to_verl():
    config = composed("+atpo=chain", "actor_rollout_ref.rollout.n=5")
    assert config.algorithm.adv_estimator == "grpo"
    assert config.actor_rollout_ref.rollout.n == 5
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == CHAIN_MANAGER
    check_config(config)


def test_rollout_n_follows_the_expansion():
    config = composed("+atpo=tree", "algorithm.atpo.expansion.initial_chains=3", "algorithm.atpo.expansion.rounds=1")
    assert config.actor_rollout_ref.rollout.n == 6
    check_config(config)


def test_settings_by_hand_need_no_preset():
    config = composed(
        "algorithm.adv_estimator=atpo",
        "actor_rollout_ref.rollout.n=4",
        "+algorithm.atpo.expansion.initial_chains=2",
        "+algorithm.atpo.expansion.branches_per_round=2",
        "+algorithm.atpo.expansion.rounds=1",
        "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=verl_atpo.rollout.TreeAgentLoopManager",
        "actor_rollout_ref.rollout.calculate_log_probs=True",
    )
    assert check_config(config).expansion.leaves == 4
    assert check_config(composed("algorithm.adv_estimator=atpo")) == AtpoConfig()


REFUSED = {
    "actor_rollout_ref.rollout.n=5": "rollout.n=5 cannot work.*12 leaves.*set actor_rollout_ref.rollout.n=12",
    "actor_rollout_ref.rollout.calculate_log_probs=False": "set actor_rollout_ref.rollout.calculate_log_probs=True",
    "actor_rollout_ref.rollout.temperature=0": "temperature=0 cannot work",
    "trainer.use_v1=False": "set trainer.use_v1=True",
    "algorithm.use_kl_in_reward=True": "use_kl_loss=True",
    "reward.reward_model.enable=True": "enable_resource_pool=True",
    "algorithm.atpo.expansion.rounds=-1": "rounds=-1 cannot work",
    "+algorithm.atpo.expansion.round=2": "Did you mean algorithm.atpo.expansion.rounds",
    "algorithm.atpo.expansion.strategy=best": "expected one of entropy, noise, other_chains, random",
    "algorithm.atpo.credit.backup=mean": "expected one of child_softmax, child_mean, leaf_mean",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refused_with_setting_and_remedy(override):
    config = composed("+atpo=tree", override)
    with pytest.raises(ConfigError, match=REFUSED[override]):
        check_config(config)


def test_single_turn_loops_are_refused():
    check_agent_names({"tool_agent", "mine"})
    with pytest.raises(ConfigError, match="default_agent_loop=tool_agent"):
        check_agent_names({"tool_agent", "single_turn_agent"})


def test_the_cpu_preset_without_its_environment_variable_is_refused(monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    with pytest.raises(Exception, match="VERL_PLATFORM=cpu python -m"):
        _ = composed("+platform=cpu").trainer.device
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = composed("+platform=cpu", "+atpo=tree", "trainer.n_gpus_per_node=2")
    assert config.trainer.device == "cpu"
    assert config.ray_kwargs.ray_init.num_gpus == 2


@pytest.mark.parametrize(("agent", "style"), [("search", "tools"), ("search_tags", "tags")])
def test_the_papers_agent_and_score(agent, style):
    config = composed("+atpo=paper", f"+agent={agent}", "+score=qa_paper")
    rollout, function = config.actor_rollout_ref.rollout, config.reward.custom_reward_function
    assert Path(rollout.multi_turn.tool_config_path).is_file()
    assert (rollout.agent.default_agent_loop, rollout.multi_turn.format) in {
        ("tool_agent", "hermes"),
        ("tag_agent", "atpo_tags"),
    }
    assert function.reward_kwargs == {"metric": "em", "malformed_score": -1.0, "style": style}
    assert load_extern_object(function.path, function.name)
    check_config(config)
    assert composed("+score=qa_f1").reward.custom_reward_function.reward_kwargs.style == "tools"
