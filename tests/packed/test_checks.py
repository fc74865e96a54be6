"""What +train=packed sets under verl's real config, and what is refused."""

from __future__ import annotations

import pytest
from transformers import BertConfig, Gemma2Config, LlamaConfig, MistralConfig, Qwen2_5_VLConfig, Qwen3Config

from tests.startup.test_presets import changed_by, composed
from verl_atpo.packed.checks import is_packed
from verl_atpo.packed.models import check_layers, check_model
from verl_atpo.settings import ConfigError
from verl_atpo.startup.checks import check_config

MODEL, ACTOR = "actor_rollout_ref.model", "actor_rollout_ref.actor"


def test_the_preset_sets_two_settings():
    found = changed_by("+train=packed")
    # What follows the actor's strategy follows.
    assert found.pop("actor_rollout_ref.actor.strategy") == "fsdp2"
    assert found.pop("actor_rollout_ref.model.external_lib") == "verl_atpo.packed.activate"
    assert not {name for name in found if "external_lib" not in name}, found


@pytest.mark.parametrize("recipe", ["+atpo=tree", "+atpo=paper", "+atpo=chain", "algorithm.adv_estimator=grpo"])
def test_goes_with_every_recipe(recipe):
    config = composed(recipe, "+train=packed")
    assert is_packed(config)
    check_config(config)


def test_goes_with_the_users_own_library():
    config = composed("+atpo=tree", f"{MODEL}.external_lib=[mine,verl_atpo.packed.activate]")
    assert is_packed(config)
    assert not is_packed(composed("+atpo=tree", f"{MODEL}.external_lib=mine"))


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("trainer.use_v1=False", "set trainer.use_v1=True"),
        (f"{ACTOR}.strategy=fsdp", f"set {ACTOR}.strategy=fsdp2"),
        (f"{ACTOR}.ulysses_sequence_parallel_size=2", "set it to 1"),
        (f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2", "set it to 1"),
        (f"{MODEL}.use_fused_kernels=True", "set it to False"),
        (f"{MODEL}.mtp.enable=True", "set it to False"),
        (f"{ACTOR}.fsdp_config.pad_to_length=True", "set it to False"),
        ("distillation.enabled=True", "set it to False"),
        ("algorithm.adv_estimator=gae", r"critics are not packed; leave out \+train=packed"),
        ("critic.enable=True", r"critics are not packed; leave out \+train=packed"),
        (f"+{ACTOR}.router_replay.mode=R2", "set it to disabled"),
    ],
)
def test_what_cannot_work_is_refused(override, remedy):
    with pytest.raises(ConfigError, match=rf"cannot work with packed rows: .*{remedy}"):
        check_config(composed("+atpo=chain", "+train=packed", override))


@pytest.mark.parametrize("config", [Qwen3Config(), LlamaConfig(), MistralConfig(sliding_window=None)])
def test_plain_causal_models_are_taken(config):
    check_model(config)
    check_layers(config.num_hidden_layers, config)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (Qwen2_5_VLConfig(), "it reads images"),
        (Gemma2Config(), "its layers are full_attention, sliding_attention"),
        (MistralConfig(sliding_window=8), "its attention has a window"),
        (Qwen3Config(attention_dropout=0.1), "its attention has dropout"),
        (BertConfig(is_encoder_decoder=True), "it has an encoder"),
    ],
)
def test_other_models_are_refused(config, why):
    with pytest.raises(ConfigError, match=rf"{why}.*leave out \+train=packed"):
        check_model(config)


def test_layers_that_attend_by_themselves_are_refused():
    with pytest.raises(ConfigError, match="3 of its 4 layers use transformers' attention"):
        check_layers(3, Qwen3Config(num_hidden_layers=4))
