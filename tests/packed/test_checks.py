"""What +train=packed sets under verl's real config, and what is refused."""

from __future__ import annotations

import pytest
from transformers import (
    BertConfig,
    BltConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    JambaConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlavaConfig,
    MiniMaxConfig,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen3_5Config,
    Qwen3Config,
    RwkvConfig,
)

from tests.assets.presets import changed_by, composed
from verl_atpo.doctor import main as doctor
from verl_atpo.packed.checks import is_packed
from verl_atpo.packed.models import check_layers, check_model
from verl_atpo.packed.trainer import mini_batches, pack_budget
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


def test_budget_and_mini_batches_are_read_from_verls_config():
    config = composed("+atpo=tree", "+train=packed", f"{ACTOR}.use_dynamic_bsz=True", f"{ACTOR}.ppo_mini_batch_size=4")
    assert pack_budget(config) == 16384 == config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    assert mini_batches(config, 8 * config.actor_rollout_ref.rollout.n) == 2


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
        (f"{MODEL}.mtp.enable=True", "set it to False"),
        (f"{ACTOR}.fsdp_config.pad_to_length=True", "set it to False"),
        ("distillation.enabled=True", "set it to False"),
        ("algorithm.adv_estimator=gae", r"critics are not packed; leave out \+train=packed"),
        ("critic.enable=True", r"critics are not packed; leave out \+train=packed"),
        (f"+{ACTOR}.router_replay.mode=R2", "set it to disabled"),
    ],
)
def test_what_cannot_work_is_refused(override, remedy):
    with pytest.raises(ConfigError, match=rf"cannot work.*{remedy}"):
        check_config(composed("+atpo=chain", "+train=packed", override))


def test_fused_kernels_stay_as_they_are_for_the_packs_have_a_head_of_their_own():
    check_config(composed("+atpo=chain", "+train=packed", f"{MODEL}.use_fused_kernels=True"))


@pytest.mark.parametrize(
    "config", [Qwen3Config(), LlamaConfig(), MistralConfig(sliding_window=8), Qwen2_5_VLConfig(), Qwen3_5Config()]
)
def test_causal_models_are_taken(config):
    check_model(config)


def capped(**more):
    return Gemma2Config(attn_logit_softcapping=50.0, **more)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (LlavaConfig(), "its text part was not tried"),
        (capped(), "its attention scores are capped"),
        (Llama4TextConfig(), "its layers are chunked_attention"),
        (Qwen3Config(attention_dropout=0.1), r"dropout .*override_config.attention_dropout=0.0"),
        (BertConfig(is_encoder_decoder=True), "it has an encoder"),
        (JambaConfig(), "its layers are mamba"),
        (MiniMaxConfig(), "not those of a known gated delta net"),
        (GPTJConfig(), "accept no attention but their own"),
        (FalconConfig(), "accept no attention but their own"),
        (RwkvConfig(), "accept no attention but their own"),
        (BltConfig(), "does not say how many layers it has"),
    ],
)
def test_other_models_are_refused(config, why):
    with pytest.raises(ConfigError, match=rf"{why}.*leave out \+train=packed"):
        check_model(config)


def test_the_driver_refuses_a_model_by_its_config_json(tmp_path, capsys):
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    Qwen3Config().save_pretrained(tmp_path / "qwen3")
    path = f"{MODEL}.path={tmp_path}"
    with pytest.raises(ConfigError, match=r"the model gpt2 .*dropout \(attn_pdrop=0.1"):
        check_config(composed("+atpo=chain", "+train=packed", f"{path}/gpt2"))
    zero = [f"+{MODEL}.override_config.{name}=0.0" for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop")]
    check_config(composed("+atpo=chain", "+train=packed", f"{path}/gpt2", *zero))
    check_config(composed("+atpo=chain", "+train=packed", f"{path}/qwen3"))
    check_config(composed("+atpo=chain", f"{path}/gpt2"))  # without packs
    for name, code, words in (
        ("gpt2", 1, "cannot be trained on packed rows"),
        ("qwen3", 0, "can be trained with +train=packed (32 full_attention)"),
        ("none", 1, "give a model's folder"),
    ):
        with pytest.raises(SystemExit) as exit_:
            doctor(["--model", str(tmp_path / name)])
        assert exit_.value.code == code and words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"model_type": ', "not a valid JSON file"),
        ("[1, 2]", "must be integers or slices"),
        ('{"num_hidden_layers": 3}', "Unrecognized model"),
        ('{"model_type": "of_tomorrow"}', "of_tomorrow"),
        ('{"model_type": "qwen3", "num_hidden_layers": "three"}', "expected int, got str"),
        ('{"model_type": "qwen3", "num_hidden_layers": 3, "layer_types": ["full_attention"]}', "must be equal"),
        ('{"model_type": "qwen3_5", "text_config": 5}', "text_config"),
    ],
)
def test_a_config_json_that_transformers_does_not_take_is_named_with_the_reason(tmp_path, capsys, text, reason):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"{MODEL}.path={tmp_path}: transformers cannot read .*{reason}.*Correct"):
        check_config(composed("+atpo=chain", "+train=packed", f"{MODEL}.path={tmp_path}"))
    with pytest.raises(SystemExit) as exit_:
        doctor(["--model", str(tmp_path)])
    assert exit_.value.code == 1 and reason in capsys.readouterr().out


def test_layers_that_attend_by_themselves_are_refused():
    with pytest.raises(ConfigError, match="3 of 4 layers with full attention use transformers' interfaces"):
        check_layers({"full": 3, "window": 0, "state": 0}, Qwen3Config(num_hidden_layers=4))
