"""Start-up checks of batch sizes: verl's workers cut their rows into micro-batches, once Ray and models are up.

Only without dynamic batch sizes; packs (``+train=packed``) are cut by tokens. A step has ``train_batch_size * n`` rows,
which verl pads to whole mini-batches of ``ppo_mini_batch_size * n``; each data-parallel rank gets as many, and its
micro-batches have to be of one size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from omegaconf import DictConfig

from verl_atpo.packed.checks import is_packed
from verl_atpo.startup.verl_config import ACTOR, ROLLOUT, get, number, refuse

REF = "actor_rollout_ref.ref"


def check_batch_sizes(config: DictConfig) -> None:
    """Check that each rank's rows are whole micro-batches.

    Raises:
        ConfigError: names the setting, its value and sizes that work.
    """
    if get(config, "trainer.use_v1") is False or get(config, f"{ACTOR}.use_dynamic_bsz"):
        return
    keys = (f"{ACTOR}.ppo_mini_batch_size", f"{ROLLOUT}.n", "data.train_batch_size")
    prompts, leaves, batch = (number(config, key, integer=True) for key in keys)
    ranks = _ranks(config)
    if not ranks or not prompts or not leaves or not batch:
        return
    mini_batch = prompts * leaves
    if mini_batch % ranks:
        refuse(
            f"{ACTOR}.ppo_mini_batch_size",
            prompts,
            f"times {ROLLOUT}.n={leaves} it is {mini_batch} rows, which {ranks} data-parallel ranks cannot share; set "
            f"a multiple of {ranks // math.gcd(ranks, leaves)}",
        )
    if is_packed(config):
        return
    whole = math.lcm(ranks, mini_batch)
    rows = math.ceil(batch * leaves / whole) * whole
    for key, per_rank in _micro_batches(config, mini_batch // ranks, rows // ranks):
        size = number(config, key, integer=True)
        if size and per_rank % size:
            refuse(
                key,
                size,
                f"a rank has {per_rank} rows ({ROLLOUT}.n={leaves}, {ranks} ranks), no multiple of it; set one of "
                f"{', '.join(map(str, _near(per_rank, size)))}, or {ACTOR}.use_dynamic_bsz=True",
            )


def _micro_batches(config: DictConfig, mini_batch: int, batch: int) -> Iterator[tuple[str, int]]:
    """Settings of micro-batch sizes -> the rows of a rank that they cut."""
    yield f"{ACTOR}.ppo_micro_batch_size_per_gpu", mini_batch
    yield f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", batch
    if get(config, f"{ACTOR}.use_kl_loss") or get(config, "algorithm.use_kl_in_reward"):
        yield f"{REF}.log_prob_micro_batch_size_per_gpu", batch


def _ranks(config: DictConfig) -> int | None:
    """Data-parallel ranks of the actor; None where they cannot be told."""
    devices = (get(config, "trainer.n_gpus_per_node") or 0) * (get(config, "trainer.nnodes") or 0)
    strategy = get(config, f"{ACTOR}.strategy")
    if strategy in ("fsdp", "fsdp2"):
        together = [f"{ACTOR}.ulysses_sequence_parallel_size", f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size"]
        size = max(get(config, key) or 1 for key in together)
    elif strategy == "megatron":
        kinds = ("tensor", "pipeline", "context")
        sizes = [get(config, f"{ACTOR}.megatron.{kind}_model_parallel_size") for kind in kinds[:2]]
        size = math.prod((*sizes, get(config, f"{ACTOR}.megatron.context_parallel_size")))
    else:
        return None
    return devices // size if devices and devices % size == 0 else None


def _near(rows: int, size: int) -> list[int]:
    """Up to three divisors of ``rows``, the nearest to ``size`` first."""
    divisors = [each for each in range(1, rows + 1) if rows % each == 0]
    return sorted(divisors, key=lambda each: (abs(each - size), each))[:3]
