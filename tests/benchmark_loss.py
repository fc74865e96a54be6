"""Time and peak memory of the turn-level loss, forward and backward, against a per-turn loop and verl's GSPO loss.

    python tests/benchmark_loss.py [--shapes 32x4096 64x8192] [--turns 6 200] [--device cpu cuda] [--out result.json]

Every repeat runs the three losses one after the other on the same tensors, so what else the machine does hits all
three alike. Times are the shortest of the repeats; peak memory (CUDA only) is what a call allocates on top of its
inputs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_gspo
from verl.workers.config import ActorConfig

from verl_atpo.policy_loss import clip_range, compute_policy_loss_atpo

Batch = dict[str, torch.Tensor]


def turns_of_row(mask_row: list[int]) -> Iterator[tuple[int, int]]:
    """Start and end of every maximal run of ones."""
    start = None
    for position, sampled in enumerate([*mask_row, 0]):
        if sampled and start is None:
            start = position
        elif not sampled and start is not None:
            yield start, position
            start = None


def loop_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str,
    config: ActorConfig,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The definition, one turn after the other: what the vectorised loss is measured against.

    Turns' ratios are computed apart and joined once a row, so that no turn costs a pass over the whole matrix.
    """
    rows = []
    for row, mask_row in enumerate(response_mask.int().tolist()):
        pieces, done = [], 0
        for start, end in turns_of_row(mask_row):
            token = log_prob[row, start:end]
            mean = (token.detach() - old_log_prob[row, start:end]).mean()
            pieces += [token.new_ones(start - done), (token - token.detach() + mean).clamp(max=10.0).exp()]
            done = end
        rows.append(torch.cat([*pieces, log_prob.new_ones(len(mask_row) - done)]))
    ratio = torch.stack(rows)
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(*clip_range(config)))
    return agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info), {}


def make_batch(rows: int, tokens: int, turns: int, device: str, dtype: torch.dtype) -> Batch:
    """Random rows of about ``turns`` turns, two thirds of the tokens sampled, the rest observations."""
    generator = torch.Generator().manual_seed(0)
    cuts = torch.rand(rows, 2 * turns - 1, generator=generator).add_(0.5).cumsum(dim=1)
    cuts = (cuts / cuts[:, -1:] * tokens).long()
    stretch = torch.searchsorted(cuts, torch.arange(tokens).expand(rows, tokens).contiguous(), right=True)
    old_log_prob = -torch.rand(rows, tokens, generator=generator) * 3
    batch = {
        "old_log_prob": old_log_prob.to(dtype),
        "log_prob": (old_log_prob + 0.02 * torch.randn(rows, tokens, generator=generator)).to(dtype),
        "advantages": torch.randn(rows, 1, generator=generator).expand(rows, tokens).to(dtype).contiguous(),
        "response_mask": stretch % 2 == 0,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def timed(loss_fn: Callable[..., Any], batch: Batch, config: ActorConfig) -> tuple[float, int]:
    """Seconds and peak bytes (0 on a CPU) of one forward and backward."""
    cuda = batch["log_prob"].is_cuda
    log_prob = batch["log_prob"].detach().requires_grad_()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    begin = time.perf_counter()
    loss, _ = loss_fn(**{**batch, "log_prob": log_prob}, loss_agg_mode="seq-mean-token-mean", config=config)
    loss.backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return seconds, torch.cuda.max_memory_allocated() - before if cuda else 0


def measure(rows: int, tokens: int, turns: int, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """One line of the table: the best of ``repeats`` interleaved runs, after one warm-up."""
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio_low=0.003,
                         clip_ratio_high=0.004)  # fmt: skip
    batch = make_batch(rows, tokens, turns, device, dtype)
    losses = {"atpo": compute_policy_loss_atpo, "loop": loop_loss, "gspo": compute_policy_loss_gspo}
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in losses}
    for _ in range(repeats + 1):
        for name, loss_fn in losses.items():
            runs[name].append(timed(loss_fn, batch, config))
    seconds = {name: min(run[0] for run in values[1:]) for name, values in runs.items()}
    return {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "tokens": tokens,
        "turns": turns,
        **{f"{name}_ms": round(1e3 * value, 3) for name, value in seconds.items()},
        "faster_than_loop": round(seconds["loop"] / seconds["atpo"], 2),
        "time_over_gspo": round(seconds["atpo"] / seconds["gspo"], 2),
        **{f"{name}_peak_mib": round(max(run[1] for run in values[1:]) / 2**20, 1) for name, values in runs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["32x4096", "64x8192"], help="rows x tokens")
    parser.add_argument("--turns", nargs="+", type=int, default=[6, 200], help="turns a row")
    parser.add_argument("--device", nargs="+", default=["cpu"] + ["cuda"] * torch.cuda.is_available())
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    args = parser.parse_args()
    table: list[dict[str, Any]] = []
    for device in args.device:
        for shape in args.shapes:
            for turns in args.turns:
                rows, tokens = map(int, shape.split("x"))
                line = measure(rows, tokens, turns, device, getattr(torch, args.dtype), args.repeats)
                if not table:
                    sys.stdout.write(" ".join(f"{name:>16}" for name in line) + "\n")
                sys.stdout.write(" ".join(f"{value!s:>16}" for value in line.values()) + "\n")
                sys.stdout.flush()
                table.append(line)
    if args.out:
        args.out.write_text(json.dumps({"torch": torch.__version__, "results": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
