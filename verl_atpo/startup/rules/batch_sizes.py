"""Rules about batch sizes: verl's workers divide their rows into micro-batches, once Ray and models have started.

They apply only without dynamic batch sizes; packs (``+train=packed``) are divided by tokens. A step has
``train_batch_size * n`` rows, which verl pads to complete mini-batches of ``ppo_mini_batch_size * n``. Each
data-parallel rank gets the same number, and its micro-batches must all have the same size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from verl_atpo.packed.checks import is_packed
from verl_atpo.startup.rules.rule import Rule, Run
from verl_atpo.startup.verl_config import ACTOR, ROLLOUT, STRATEGY

REF = "actor_rollout_ref.ref"
MINI_BATCH = f"{ACTOR}.ppo_mini_batch_size"


@dataclass(frozen=True)
class _Sizes:
    """Rows of a step.

    Attributes:
        ranks: data-parallel ranks of the actor.
        leaves: rows per prompt.
        mini_batch: rows of one mini-batch, on all ranks.
        batch: rows of a step, padded to complete mini-batches, on all ranks.
    """

    ranks: int
    leaves: int
    mini_batch: int
    batch: int


def _sizes(run: Run) -> _Sizes | None:
    """Compute the sizes of a run; None if they are not known here."""
    prompts, leaves, batch = (
        run.number(key, integer=True) for key in (MINI_BATCH, f"{ROLLOUT}.n", "data.train_batch_size")
    )
    ranks = _ranks(run)
    if not ranks or not prompts or not leaves or not batch:
        return None
    mini_batch = prompts * leaves
    padded = math.lcm(ranks, mini_batch)
    return _Sizes(ranks, leaves, mini_batch, math.ceil(batch * leaves / padded) * padded)


def _ranks(run: Run) -> int | None:
    """Compute the data-parallel ranks of the actor; None for an engine whose ranks are not known here."""
    devices = (run.get("trainer.n_gpus_per_node") or 0) * (run.get("trainer.nnodes") or 0)
    strategy = run.get(STRATEGY)
    if strategy in ("fsdp", "fsdp2"):
        together = [f"{ACTOR}.ulysses_sequence_parallel_size", f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size"]
        size = max(run.get(key) or 1 for key in together)
    elif strategy == "megatron":
        kinds = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        size = math.prod(run.get(f"{ACTOR}.megatron.{kind}") or 1 for kind in kinds)
    else:
        return None
    return devices // size if devices and devices % size == 0 else None


def _cuts_rows(run: Run) -> bool:
    return run.get("trainer.use_v1") is not False and not run.get(f"{ACTOR}.use_dynamic_bsz")


def _cuts_micro_batches(run: Run) -> bool:
    return _cuts_rows(run) and not is_packed(run.config)


def _has_reference(run: Run) -> bool:
    return _cuts_micro_batches(run) and bool(run.get(f"{ACTOR}.use_kl_loss") or run.get("algorithm.use_kl_in_reward"))


def _divided(run: Run) -> str | None:
    sizes = _sizes(run)
    if sizes is None or sizes.mini_batch % sizes.ranks == 0:
        return None
    return (
        f"times {ROLLOUT}.n={sizes.leaves} it is {sizes.mini_batch} rows, which {sizes.ranks} data-parallel ranks "
        f"cannot share; set a multiple of {sizes.ranks // math.gcd(sizes.ranks, sizes.leaves)}"
    )


def _micro_batch(run: Run, setting: str, rows: Callable[[_Sizes], int]) -> str | None:
    sizes, size = _sizes(run), run.number(setting, integer=True)
    if sizes is None or not size or sizes.mini_batch % sizes.ranks:
        return None
    per_rank = rows(sizes) // sizes.ranks
    if per_rank % size == 0:
        return None
    return (
        f"a rank has {per_rank} rows ({ROLLOUT}.n={sizes.leaves}, {sizes.ranks} ranks), no multiple of it; set one of "
        f"{', '.join(map(str, _near(per_rank, size)))}, or {ACTOR}.use_dynamic_bsz=True"
    )


def _near(rows: int, size: int) -> list[int]:
    """Return up to three divisors of ``rows``, the closest to ``size`` first."""
    divisors = [each for each in range(1, rows + 1) if rows % each == 0]
    return sorted(divisors, key=lambda each: (abs(each - size), each))[:3]


def _micro_batch_rule(setting: str, rows: Callable[[_Sizes], int], applies: Callable[[Run], bool]) -> Rule:
    return Rule(setting, functools.partial(_micro_batch, setting=setting, rows=rows), applies)


RULES = (
    Rule(MINI_BATCH, _divided, _cuts_rows),
    _micro_batch_rule(f"{ACTOR}.ppo_micro_batch_size_per_gpu", lambda sizes: sizes.mini_batch, _cuts_micro_batches),
    _micro_batch_rule(f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", lambda sizes: sizes.batch, _cuts_micro_batches),
    _micro_batch_rule(f"{REF}.log_prob_micro_batch_size_per_gpu", lambda sizes: sizes.batch, _has_reference),
)
