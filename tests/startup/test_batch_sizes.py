"""Batch sizes that verl's workers would stumble over, refused in the driver; against verl's own way to cut a batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.assets.configs import config_with, refusal
from verl_atpo.config import ConfigError
from verl_atpo.startup.rules.batch_sizes import RULES
from verl_atpo.startup.rules.rule import Run, broken

A, R, F = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "ref"))


def check_batch_sizes(config: object) -> None:
    for _, message in broken(RULES, Run(config)):
        raise ConfigError(message)


SIXTEEN = ("algorithm.atpo.expansion.initial_chains=10",)
PROMPTS = (*SIXTEEN, f"{A}.ppo_mini_batch_size=64", "data.train_batch_size=128")  # 64 x 16 rows on 8 ranks: 128 each


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([f"{A}.ppo_micro_batch_size_per_gpu=10"], ["micro_batch_size_per_gpu=10", "128 rows", "8, 4, 16"]),
        (
            [f"{R}.log_prob_micro_batch_size_per_gpu=96"],
            ["log_prob_micro_batch_size_per_gpu=96", "256 rows", "64, 128"],
        ),
        (
            [f"{F}.log_prob_micro_batch_size_per_gpu=3", f"{A}.use_kl_loss=true"],
            [f"{F}.log_prob", "use_dynamic_bsz=True"],
        ),
        ([f"{A}.ppo_mini_batch_size=1", "trainer.n_gpus_per_node=5"], ["16 rows", "5 data-parallel", "multiple of 5"]),
    ],
    ids=["update", "log-probs", "reference", "ranks"],
)
def test_what_a_rank_cannot_cut_is_refused(settings, words):
    message = refusal(config_with(*PROMPTS, *settings))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "settings",
    [
        [f"{A}.ppo_micro_batch_size_per_gpu=16", f"{R}.log_prob_micro_batch_size_per_gpu=32"],
        [f"{A}.ppo_micro_batch_size_per_gpu=10", f"{A}.use_dynamic_bsz=true"],
        [f"{F}.log_prob_micro_batch_size_per_gpu=3"],  # no reference policy is asked
        ["actor_rollout_ref.model.external_lib=verl_atpo.packed.activate", f"{A}.ppo_micro_batch_size_per_gpu=10"],
        [f"{A}.strategy=veomni", f"{A}.ppo_micro_batch_size_per_gpu=10"],  # its ranks are not known here
    ],
    ids=["whole", "dynamic", "no reference", "packed", "another engine"],
)
def test_what_works_passes(settings):
    check_batch_sizes(config_with(*PROMPTS, *settings))


def in_ranks(config: str, **sizes: int):
    actor = {
        "strategy": config,
        "ppo_mini_batch_size": 32,
        "use_dynamic_bsz": False,
        "ppo_micro_batch_size_per_gpu": 12,
    }
    if config == "megatron":
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        actor["megatron"] = {name: sizes.pop(name) for name in names}
    else:
        actor["ulysses_sequence_parallel_size"] = sizes.pop("sequence")
    return OmegaConf.create(
        {
            "trainer": {"n_gpus_per_node": 16, "nnodes": 1},
            "data": {"train_batch_size": 32},
            "actor_rollout_ref": {"actor": actor, "rollout": {"n": 3}},
        }
    )


def test_devices_that_share_a_row_are_one_rank():
    """32 x 3 rows: 8 ranks have 12 each, 4 ranks 24, 16 ranks 6."""
    check_batch_sizes(in_ranks("fsdp2", sequence=2))
    sizes = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "context_parallel_size": 1}
    check_batch_sizes(in_ranks("megatron", **sizes))
    with pytest.raises(ConfigError, match="6 rows"):
        check_batch_sizes(in_ranks("fsdp2", sequence=1))


@given(
    st.integers(1, 12), st.integers(1, 8), st.integers(1, 6), st.integers(1, 4), st.integers(1, 24), st.integers(1, 24)
)
def test_refused_is_what_verl_cannot_cut(prompts, leaves, ranks, steps, micro, log_prob):
    """verl pads a step's rows to a multiple of ranks and of the mini-batch, deals them out, and cuts each share."""
    config = OmegaConf.create(
        {
            "trainer": {"n_gpus_per_node": ranks, "nnodes": 1},
            "data": {"train_batch_size": prompts * steps},
            "actor_rollout_ref": {
                "actor": {"strategy": "fsdp", "ppo_mini_batch_size": prompts, "ppo_micro_batch_size_per_gpu": micro},
                "rollout": {"n": leaves, "log_prob_micro_batch_size_per_gpu": log_prob},
            },
        }
    )
    rows = prompts * leaves * steps
    while rows % ranks or rows % (prompts * leaves):
        rows += 1
    works = (
        (prompts * leaves) % ranks == 0 and (prompts * leaves // ranks) % micro == 0 and (rows // ranks) % log_prob == 0
    )
    try:
        check_batch_sizes(config)
    except ConfigError:
        assert not works
    else:
        assert works
