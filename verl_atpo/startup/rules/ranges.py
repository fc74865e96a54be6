"""Rules about values of verl's settings that verl reads late: ranges of numbers, truth values, names."""

from __future__ import annotations

import math

from verl_atpo.packed.checks import is_packed
from verl_atpo.startup.rules.rule import Rule, Run, choice_rule, number_rule, value_rule
from verl_atpo.startup.verl_config import ACTOR, MODE, MULTI_TURN, ROLLOUT, unknown

AT_LEAST_ONE = (
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
    f"{ROLLOUT}.tensor_model_parallel_size",
    f"{ROLLOUT}.max_num_seqs",
    f"{ROLLOUT}.max_num_batched_tokens",
    f"{ROLLOUT}.val_kwargs.n",
    "data.val_batch_size",
    "reward.num_workers",
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
    f"{ROLLOUT}.calculate_log_probs",
    f"{ROLLOUT}.do_sample",
    "trainer.balance_batch",
)
"""Settings that are true or false; any text would be true."""
NAMES = {
    "data.truncation": ("left", "right", "middle", "error"),
    f"{MULTI_TURN}.tool_response_truncate_side": ("left", "middle", "right"),
    f"{ROLLOUT}.mode": ("async",),
    f"{ROLLOUT}.dtype": ("auto", "bfloat16", "float16", "float32", "half", "float"),
}
"""Settings that are one of a few names, which verl compares only when it uses them."""
MEMORY = f"{ROLLOUT}.gpu_memory_utilization"
VALIDATION = f"{ROLLOUT}.val_kwargs"
SAMPLERS = (VALIDATION, ROLLOUT)
BATCHED, SEQUENCES = f"{ROLLOUT}.max_num_batched_tokens", f"{ROLLOUT}.max_num_seqs"
PROMPT = f"{ROLLOUT}.prompt_length"
DYNAMIC, ROOM = f"{ACTOR}.use_dynamic_bsz", f"{ACTOR}.ppo_max_token_len_per_gpu"
SAVED = f"{ACTOR}.checkpoint.save_contents"
PARTS = ("model", "optimizer", "extra", "hf_model")


def _used(run: Run) -> bool:
    return run.grows_trees or run.trains_ours


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


def _scheduled(run: Run) -> str | None:
    """Refuse fewer tokens in a batch of the engine than sequences in it, as vLLM does."""
    tokens, sequences = run.number(BATCHED, integer=True), run.number(SEQUENCES, integer=True)
    if not tokens or not sequences or tokens >= sequences:
        return None
    return f"vLLM needs at least one token for each of the {SEQUENCES}={sequences}; set {sequences} or more"


def _cut_prompts(run: Run) -> str | None:
    """Refuse a rollout that cuts prompts which the data may hold."""
    length, longest = run.number(PROMPT, integer=True), run.number("data.max_prompt_length", integer=True)
    if length is None or longest is None or length >= longest:
        return None
    return f"verl would cut longer prompts from the left; set at least data.max_prompt_length={longest}"


def _greedy_validation(run: Run) -> str | None:
    """Warn of validation samples that are all the same."""
    samples, greedy = run.get(f"{VALIDATION}.n"), not run.get(f"{VALIDATION}.do_sample")
    greedy = greedy or run.get(f"{VALIDATION}.temperature") == 0
    if not greedy or not isinstance(samples, int) or samples < 2:
        return None
    return f"they would all be the same, since {VALIDATION}.do_sample or temperature makes them greedy; set 1"


def _dynamic(setting: str, tokens: str) -> Rule:
    """Make a rule that warns of micro-batches in which the longest row has no room."""

    def problem(run: Run) -> str | None:
        room = run.number(tokens, integer=True)
        parts = [run.number(f"data.max_{part}_length", integer=True) for part in ("prompt", "response")]
        together = run.get(f"{ACTOR}.ulysses_sequence_parallel_size") or 1
        if tokens != ROOM and room == run.get(ROOM) and run.get(DYNAMIC):
            return None  # reported for the actor
        if room is None or None in parts or not run.get(setting) or room * together >= sum(parts):
            return None
        return (
            f"a row may have {sum(parts)} tokens (prompt and response), and the run ends when one has more than "
            f"{room * together}; set at least {-(-sum(parts) // together)}"
        )

    return Rule(tokens, problem, lambda run: _used(run) and not is_packed(run.config), warns=True)


def _validates_nothing(run: Run) -> str | None:
    if not run.get("trainer.val_only") or run.get("trainer.val_before_train") is not False:
        return None
    return "verl ignores it where trainer.val_before_train=False, and would train; set trainer.val_before_train=True"


def _saved_parts(run: Run) -> str | None:
    """Refuse parts of a checkpoint that verl would leave out silently."""
    for part in run.get(SAVED) or ():
        if part not in PARTS:
            return unknown(part, PARTS)
    return None


def _unsaved_model(run: Run) -> str | None:
    """Warn of checkpoints from which no run can continue."""
    parts, frequency = run.get(SAVED), run.get("trainer.save_freq")
    if parts is None or not isinstance(frequency, int) or frequency <= 0 or "model" in parts:
        return None
    return "checkpoints without `model` hold no weights to continue from; set [model,optimizer,extra]"


RULES = (
    Rule("trainer.val_only", _validates_nothing, _used),
    Rule(SAVED, _saved_parts, _used),
    Rule(SAVED, _unsaved_model, _used, warns=True),
    Rule(BATCHED, _scheduled, lambda run: _used(run) and run.get(f"{ROLLOUT}.name") == "vllm"),
    Rule(PROMPT, _cut_prompts, _used),
    Rule(f"{VALIDATION}.n", _greedy_validation, _used, warns=True),
    _dynamic(DYNAMIC, ROOM),
    _dynamic(f"{ROLLOUT}.log_prob_use_dynamic_bsz", f"{ROLLOUT}.log_prob_max_token_len_per_gpu"),
    number_rule("data.dataloader_num_workers", "expected 0 or more", _used, integer=True, ge=0),
    number_rule(f"{VALIDATION}.temperature", "expected 0 (greedy) or more; set 0", _used, ge=0),
    *(number_rule(f"{each}.top_p", "expected above 0, at most 1; set 1.0", _used, gt=0, le=1) for each in SAMPLERS),
    *(number_rule(f"{each}.top_k", "set -1 for no limit", _used, integer=True, ge=-1) for each in SAMPLERS),
    *(number_rule(each, "expected at least 1; set one", _used, integer=True, ge=1) for each in AT_LEAST_ONE),
    *(
        number_rule(each, "no row would be left; set at least 1, or -1 for all", _used, integer=True, ge=1, but=-1)
        for each in SAMPLES
    ),
    *(
        value_rule(each, lambda value: isinstance(value, bool), "expected true or false, without quotes", _used)
        for each in TRUTHS
    ),
    *(choice_rule(setting, lambda names=names: names, applies=_used) for setting, names in NAMES.items()),  # type: ignore[misc]
    number_rule("data.seed", "expected a number", _used, integer=True),
    *(number_rule(each, "expected a number of steps", _used, integer=True) for each in FREQUENCIES),
    number_rule(
        MEMORY, "expected a share of the device's memory, above 0 and at most 1; set e.g. 0.5", _used, gt=0, le=1
    ),
)
LATER = (Rule(f"{ROLLOUT}.tensor_model_parallel_size", _parallel, _used),)
"""Rules that follow those of batch sizes, which name the rows that devices share."""
