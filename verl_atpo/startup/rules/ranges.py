"""Rules about numbers of verl's that have a range: sizes, counts, shares of memory."""

from __future__ import annotations

from verl_atpo.startup.rules.rule import Rule, Run, number_rule
from verl_atpo.startup.verl_config import ACTOR, AGENT, MULTI_TURN, ROLLOUT

SUBJECT = "ranges"
AT_LEAST_ONE = (
    "data.train_batch_size",
    "trainer.total_epochs",
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
    f"{ACTOR}.ppo_mini_batch_size",
    f"{ACTOR}.ppo_epochs",
    f"{ROLLOUT}.tensor_model_parallel_size",
    f"{ROLLOUT}.max_num_seqs",
    f"{ROLLOUT}.max_num_batched_tokens",
    f"{ROLLOUT}.val_kwargs.n",
    f"{AGENT}.num_workers",
    f"{MULTI_TURN}.max_parallel_calls",
)
"""Whole numbers with which nothing would run if they were smaller."""
SAMPLES = ("data.train_max_samples", "data.val_max_samples")
FREQUENCIES = ("trainer.save_freq", "trainer.test_freq")
MEMORY = f"{ROLLOUT}.gpu_memory_utilization"


def _used(run: Run) -> bool:
    return run.grows_trees or run.trains_ours


def _at_least_one(setting: str) -> Rule:
    return number_rule(SUBJECT, setting, lambda value: value >= 1, "expected at least 1; set one", _used, integer=True)


def _samples(setting: str) -> Rule:
    why = "no row would be left; set at least 1, or -1 for all"
    return number_rule(SUBJECT, setting, lambda value: value >= 1 or value == -1, why, _used, integer=True)


RULES = (
    *map(_at_least_one, AT_LEAST_ONE),
    *map(_samples, SAMPLES),
    *(
        number_rule(SUBJECT, setting, lambda value: True, "expected a number of steps", _used, integer=True)
        for setting in FREQUENCIES
    ),
    number_rule(
        SUBJECT,
        MEMORY,
        lambda value: 0 < value <= 1,
        "expected a share of the device's memory, above 0 and at most 1; set e.g. 0.5",
        _used,
    ),
)
