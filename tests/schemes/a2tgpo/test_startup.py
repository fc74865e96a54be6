"""A²TGPO at start-up: its preset, configs and rows that cannot work."""

from __future__ import annotations

import numpy as np
import pytest
from verl.utils.tensordict_utils import assign_non_tensor_data, list_of_dict_to_tensordict

from tests.assets.configs import check_refusal, config_with, good
from verl_atpo.config import AtpoConfig, ConfigError
from verl_atpo.schemes.a2tgpo import A2TGPO
from verl_atpo.schemes.a2tgpo.rules import check_gold_answers
from verl_atpo.schemes.a2tgpo.settings import InformationGainConfig
from verl_atpo.startup.checks import check_config
from verl_atpo.startup.driver import CheckConfig

R, A, C = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "algorithm.atpo.credit"
IG = "algorithm.atpo.information_gain"
BAD = [
    (f"{R}.name=sglang", f"{R}.name=sglang"),
    ("trainer.v1.trainer_mode=colocate_async", "trainer.v1.trainer_mode=colocate_async"),
    (f"{R}.logprobs_mode=raw_logits", f"{R}.logprobs_mode=raw_logits"),
    (f"{A}.policy_loss.loss_mode=atpo", f"{IG}.clip=0.3"),
    (f"{A}.policy_loss.loss_mode=vanilla", f"{IG}.clip=0.3"),
    (f"{C}.backup=child_softmax", f"{C}.backup=child_softmax"),
    (f"{C}.advantage=diff_parent", f"{C}.advantage=diff_parent"),
    (f"{C}.contexts=merged", f"{C}.contexts=merged"),
    (f"{C}.tool_rewards=1", f"{C}.tool_rewards=1.0"),
    ("algorithm.adv_estimator=atpo", f"{A}.policy_loss.loss_mode=a2tgpo"),
    ("algorithm.use_kl_in_reward=true", "algorithm.use_kl_in_reward=True"),
    (f"{R}.agent.agent_loop_manager_class=null", f"{R}.agent.agent_loop_manager_class=None"),
    (f"{A}.clip_ratio_low=-0.1", f"{A}.clip_ratio_low=-0.1"),
    ("algorithm.rollout_correction.rollout_rs=token_k1", "algorithm.rollout_correction.rollout_rs=token_k1"),
    (f"{IG}.prompt=so", f"{IG}.prompt='so'"),
    (f"{IG}.weight=.nan", f"{IG}.weight=nan"),
    (f"{IG}.alpha=1", f"{IG}.alpha"),
    (f"{IG}.answer=null", f"{IG}.answer=None"),
]


def test_its_settings_are_read_and_written():
    group = {"weight": 1.0, "discount": 0.9, "clip": 0.0, "prompt": "It is {answer}.", "answer": "extra_info.gold"}
    atpo = AtpoConfig.from_mapping({"information_gain": group})
    assert A2TGPO(atpo).settings == InformationGainConfig(1.0, 0.9, 0.0, "It is {answer}.", "extra_info.gold")
    assert atpo.to_mapping()["information_gain"] == group
    assert A2TGPO(AtpoConfig()).settings == InformationGainConfig()
    assert AtpoConfig.from_mapping({"information_gain": {}}) == AtpoConfig()


@pytest.mark.parametrize(
    ("settings", "setting", "remedy"),
    [
        ({"information_gain": {"weight": -1}}, "algorithm.atpo.information_gain.weight=-1", "at least 0. It is: alpha"),
        ({"information_gain": {"discount": 0}}, "algorithm.atpo.information_gain.discount=0", "a number above 0"),
        ({"information_gain": {"clip": 1}}, "algorithm.atpo.information_gain.clip=1", "a number below 1"),
        ({"information_gain": {"prompt": "It is"}}, "algorithm.atpo.information_gain.prompt='It is'", "{answer} in it"),
        ({"information_gain": {"prompt": "{answer} {answer}"}}, "information_gain.prompt='{answer} {", "in it once"),
    ],
)
def test_refusals_name_setting_value_and_remedy(settings, setting, remedy):
    with pytest.raises(ConfigError) as refused:
        AtpoConfig.from_mapping(settings)
    assert setting in str(refused.value) and remedy in str(refused.value)


def test_the_preset_grows_the_trees_of_tree():
    config, tree = good("a2tgpo"), good("tree")
    actor = config.actor_rollout_ref.actor
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode) == ("a2tgpo", "seq-mean-token-mean")
    assert (config.algorithm.adv_estimator, config.actor_rollout_ref.rollout.n) == ("a2tgpo", 12)
    assert check_config(config).expansion == AtpoConfig().expansion
    expansion, credit = tree.algorithm.atpo.expansion, tree.algorithm.atpo.credit
    assert {key for key, value in config.algorithm.atpo.expansion.items() if expansion[key] != value} == {"strategy"}
    assert {key for key, value in config.algorithm.atpo.credit.items() if credit[key] != value} == {
        "contexts",
        "scheme",
        "backup",
    }
    assert config.actor_rollout_ref.rollout == tree.actor_rollout_ref.rollout


@pytest.mark.parametrize(("settings", "refused"), BAD, ids=str)
def test_what_information_gains_cannot_work_with_is_refused(settings, refused):
    check_refusal(settings, refused, preset="a2tgpo")


def test_a_fixed_clip_range_can_be_had():
    CheckConfig().on_job_start(config_with(f"{A}.policy_loss.loss_mode=atpo", f"{IG}.clip=0", preset="a2tgpo"))


def row(content: str = "what?", **fields):
    return {"raw_prompt": [{"role": "user", "content": content}], "extra_info": {"index": 7}, **fields}


def gold(*truths, path: str = "reward_model.ground_truth", validate: bool = False) -> None:
    batch = list_of_dict_to_tensordict([row(reward_model={"ground_truth": truth}) for truth in truths])
    if validate:
        assign_non_tensor_data(batch, "validate", True)
    check_gold_answers(batch, path)


def test_gold_answers_are_texts_or_lists_of_them():
    gold("Rome", "Paris")
    gold(["Rome", "Roma"], ["Paris"])
    gold(np.array(["Rome", "Roma"], dtype=object))
    gold({"target": ["Rome"]}, path="reward_model.ground_truth.target")
    gold("", validate=True)  # nobody asks for it there


@pytest.mark.parametrize("truth", ["", "  ", None, 7, [], [""], [7], {"target": "Rome"}])
def test_a_row_without_a_gold_answer_is_refused(truth):
    with pytest.raises(ConfigError) as refused:
        gold("Rome", truth)
    for word in ("information_gain.answer=reward_model.ground_truth", "row 1 of the batch", "'index': 7", "a list of"):
        assert word in str(refused.value)


def test_a_field_that_no_row_has_is_refused():
    with pytest.raises(ConfigError, match="row 0 of the batch"):
        gold("Rome", path="extra_info.gold")
    with pytest.raises(ConfigError, match="row 0 of the batch"):
        gold("Rome", path="golden")
