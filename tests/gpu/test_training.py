"""``main_ppo +atpo=tree +train=packed`` with vLLM on a CUDA device."""

from __future__ import annotations

import importlib.util

import pytest
from hydra import compose, initialize_config_module
from verl.plugin.platform import PlatformRegistry
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from tests.assets.devices import needs_cuda
from tests.assets.main_ppo import LEAVES, PLATFORMS, PROMPTS, Run, arguments, check_rewards
from verl_atpo.startup.checks import check_config

STEPS = 3
SETTINGS = [
    "+train=packed",
    f"trainer.total_training_steps={STEPS}",
    "trainer.val_before_train=False",
    "trainer.test_freq=-1",
]


def test_the_command_composes_and_passes_the_checks(tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", PLATFORMS["cuda"])
    assert PlatformRegistry.get(PLATFORMS["cuda"])().device_name == "cuda"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=arguments(tmp_path, "words_loop", *SETTINGS, device="cuda"))
    check_config(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    assert config.trainer.device == "cuda"
    assert config.actor_rollout_ref.rollout.dtype == "bfloat16"


@needs_cuda
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_main_ppo_trains_on_packed_trees(tmp_path):
    run = Run(tmp_path, "words_loop", *SETTINGS, device="cuda")
    assert run.wait(400) == 0, run.log[-5000:]
    assert run.left_over() == []
    assert [record["step"] for record in run.steps()] == list(range(1, STEPS + 1))
    for step, data in enumerate((record["data"] for record in run.steps()), start=1):
        assert (data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/trees_failed"]) == (PROMPTS, LEAVES, 0)
        assert data["packed/row_tokens_over_distinct"] > 1.2
        assert data["actor/grad_norm"] > 0
        assert data["training/rollout_probs_diff_max"] < 0.1  # bfloat16
        check_rewards(run.trees(), step, data)
