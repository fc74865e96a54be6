"""What the start-up checks say of verl's trainer modes."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module

from verl_atpo.config import ConfigError
from verl_atpo.startup.checks import check_config

SEPARATE = (
    "+platform=cpu",
    "trainer.v1.trainer_mode=separate_async",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "trainer.v1.separate_async.parameter_sync_step=2",
    "actor_rollout_ref.rollout.nnodes=1",
)


def check(*overrides: str) -> None:
    with initialize_config_module("verl.trainer.config", version_base=None):
        check_config(compose("ppo_trainer", overrides=["+atpo=tree", *overrides]))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.delenv("VERL_LOGGING_LEVEL", raising=False)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_modes_that_need_nothing_else(mode):
    check(f"trainer.v1.trainer_mode={mode}")


def test_a_separate_rollout_that_works(monkeypatch):
    check(*SEPARATE)
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "WARNING")
    check(*SEPARATE, "actor_rollout_ref.hybrid_engine=False")


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("trainer.v1.trainer_mode=async", "expected one of sync, colocate_async, separate_async"),
        ("data.train_batch_size=16", "parameter_sync_step \\* ppo_mini_batch_size = 2 \\* 4; set one of the three"),
        ("actor_rollout_ref.rollout.nnodes=0", "the rollout needs its own devices; set their number"),
        ("actor_rollout_ref.rollout.n_gpus_per_node=0", "the rollout needs its own devices; set their number"),
        ("actor_rollout_ref.rollout.checkpoint_engine.backend=naive", "set nccl, or gloo with \\+platform=cpu"),
        ("actor_rollout_ref.hybrid_engine=False", "set it to True, or VERL_LOGGING_LEVEL=WARNING"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(override, remedy):
    with pytest.raises(ConfigError, match=rf"{override.partition('=')[0]}=.* cannot work.*{remedy}"):
        check(*SEPARATE, override)


@pytest.mark.parametrize(("mode", "prompts"), [("sync", 7692), ("colocate_async", 3846)])
def test_a_batch_that_does_not_fit_into_transfer_queue_is_refused(mode, prompts):
    """12 leaves and their prompt are 13 entries; 100,000 fit by default, and one batch is sampled ahead."""
    key = "transfer_queue.backend.SimpleStorage.total_storage_size"
    settings = f"trainer.v1.trainer_mode={mode}", "data.train_batch_size={}"
    check(settings[0], settings[1].format(prompts))
    check(settings[0], settings[1].format(prompts + 1), f"{key}=null")
    with pytest.raises(ConfigError, match=rf"{key}=100000 cannot work.* set {key}=null or more"):
        check(settings[0], settings[1].format(prompts + 1))
