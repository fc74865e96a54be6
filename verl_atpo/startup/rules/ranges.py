"""Rules about values of verl's settings that verl reads late: ranges of numbers, truth values, names."""

from __future__ import annotations

import math

from verl_atpo.startup.rules.rule import Rule, Run, choice_rule, number_rule, value_rule
from verl_atpo.startup.verl_config import ACTOR, MODE, MULTI_TURN, ROLLOUT

AT_LEAST_ONE = (
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
    f"{ROLLOUT}.tensor_model_parallel_size",
    f"{ROLLOUT}.max_num_seqs",
    f"{ROLLOUT}.max_num_batched_tokens",
    f"{ROLLOUT}.val_kwargs.n",
)
"""Whole numbers with which nothing would run if they were smaller."""
SAMPLES = ("data.train_max_samples", "data.val_max_samples")
FREQUENCIES = ("trainer.save_freq", "trainer.test_freq")
TRUTHS = (
    "data.shuffle",
    "data.filter_overlong_prompts",
    "trainer.val_before_train",
    "trainer.val_only",
    "actor_rollout_ref.model.use_remove_padding",
    "actor_rollout_ref.model.enable_gradient_checkpointing",
    f"{ACTOR}.use_kl_loss",
    f"{ACTOR}.use_dynamic_bsz",
    f"{ROLLOUT}.enforce_eager",
    f"{ROLLOUT}.free_cache_engine",
    f"{ROLLOUT}.val_kwargs.do_sample",
)
"""Settings that are true or false; any text would be true."""
NAMES = {
    "data.truncation": ("left", "right", "middle", "error"),
    f"{MULTI_TURN}.tool_response_truncate_side": ("left", "middle", "right"),
    f"{ROLLOUT}.dtype": ("auto", "bfloat16", "float16", "float32", "half", "float"),
}
"""Settings that are one of a few names, which verl compares only when it uses them."""
MEMORY = f"{ROLLOUT}.gpu_memory_utilization"


def _used(run: Run) -> bool:
    return run.grows_trees or run.trains_ours


def _at_least_one(setting: str) -> Rule:
    return number_rule(setting, lambda value: value >= 1, "expected at least 1; set one", _used, integer=True)


def _truth(setting: str) -> Rule:
    why = "expected true or false, without quotes"
    return value_rule(setting, lambda value: isinstance(value, bool), why, _used)


def _parallel(run: Run) -> str | None:
    """Refuse an engine that the devices cannot be divided into."""
    sizes = [run.get(f"{ROLLOUT}.{kind}_parallel_size") for kind in ("tensor_model", "data", "pipeline_model")]
    on_each, machines = run.get("trainer.n_gpus_per_node") or 0, run.get("trainer.nnodes") or 0
    devices = on_each * machines
    one = math.prod(size or 1 for size in sizes)
    if run.get(MODE) == "separate_async" or devices % one == 0:
        return None
    return (
        f"an engine takes {one} devices, and trainer.n_gpus_per_node={on_each} with trainer.nnodes={machines} gives "
        f"{devices}; set a divisor of {devices}, or more devices"
    )


def _samples(setting: str) -> Rule:
    why = "no row would be left; set at least 1, or -1 for all"
    return number_rule(setting, lambda value: value >= 1 or value == -1, why, _used, integer=True)


RULES = (
    *map(_at_least_one, AT_LEAST_ONE),
    *map(_samples, SAMPLES),
    *map(_truth, TRUTHS),
    *(choice_rule(setting, lambda names=names: names, applies=_used) for setting, names in NAMES.items()),  # type: ignore[misc]
    number_rule("data.seed", lambda value: True, "expected a number", _used, integer=True),
    *(
        number_rule(setting, lambda value: True, "expected a number of steps", _used, integer=True)
        for setting in FREQUENCIES
    ),
    number_rule(
        MEMORY,
        lambda value: 0 < value <= 1,
        "expected a share of the device's memory, above 0 and at most 1; set e.g. 0.5",
        _used,
    ),
)
LATER = (Rule(f"{ROLLOUT}.tensor_model_parallel_size", _parallel, _used),)
"""Rules that follow those of batch sizes, which name the rows that devices share."""
