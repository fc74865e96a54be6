"""Time and peak memory of the turn-level loss, forward and backward, against a per-turn loop and verl's GSPO loss.

    python -m benchmarks.loss [--shapes 8x8192 64x8192] [--turns 6 200] [--device cpu cuda] [--out result.json]

Every repeat runs the three losses one after the other on the same tensors, so other load on the machine affects all
three equally. Times are the shortest of the repeats; peak memory is what a call allocates on top of its inputs. Writes
``benchmarks/results/loss.json``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo
from verl.workers.config import ActorConfig

from tests.assets.loss_oracle import Batch, loop_loss, make_batch
from verl_atpo.method.loss import compute_policy_loss_atpo

RESULT = Path(__file__).parent / "results" / "loss.json"


def call(loss_fn: Callable[..., Any], batch: Batch, config: ActorConfig) -> None:
    """Run one forward and backward pass."""
    log_prob = batch["log_prob"].detach().requires_grad_()
    loss, _ = loss_fn(**{**batch, "log_prob": log_prob}, loss_agg_mode="seq-mean-token-mean", config=config)
    loss.backward()
    if log_prob.is_cuda:
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], None]) -> float:
    """Wall time."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def peak_bytes_of(run: Callable[[], None], cuda: bool) -> int:
    """Return the peak memory above what was in use before."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


def measure(rows: int, tokens: int, turns: int, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Measure one line of the table: the best of ``repeats`` interleaved runs, after one warm-up."""
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio_low=0.003,
                         clip_ratio_high=0.004)  # fmt: skip
    batch = make_batch(rows, tokens, turns, device, dtype)
    losses = {"atpo": compute_policy_loss_atpo, "loop": loop_loss, "gspo": compute_policy_loss_gspo}
    calls = {name: functools.partial(call, loss_fn, batch, config) for name, loss_fn in losses.items()}
    peaks = {name: peak_bytes_of(run, cuda=device == "cuda") for name, run in calls.items()}  # and a warm-up
    runs = [{name: seconds_of(run) for name, run in calls.items()} for _ in range(repeats)]
    seconds = {name: min(run[name] for run in runs) for name in calls}
    return {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "tokens": tokens,
        "turns": turns,
        **{f"{name}_ms": round(1e3 * value, 3) for name, value in seconds.items()},
        "faster_than_loop": round(seconds["loop"] / seconds["atpo"], 2),
        "time_over_gspo": round(seconds["atpo"] / seconds["gspo"], 2),
        "memory_over_gspo": round(peaks["atpo"] / peaks["gspo"], 2),
        **{f"{name}_peak_mib": round(peak / 2**20, 1) for name, peak in peaks.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["8x8192", "64x8192"], help="rows x tokens")
    parser.add_argument("--turns", nargs="+", type=int, default=[6, 200], help="turns a row")
    parser.add_argument("--device", nargs="+", default=["cpu"] + ["cuda"] * torch.cuda.is_available())
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], help="of the log-probs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for the table")
    args = parser.parse_args()
    table: list[dict[str, Any]] = []
    for device, dtype, shape, turns in itertools.product(args.device, args.dtype, args.shapes, args.turns):
        rows, tokens = map(int, shape.split("x"))
        table.append(measure(rows, tokens, turns, device, getattr(torch, dtype), args.repeats))
    settings = {"torch": torch.__version__, "threads": torch.get_num_threads(), "repeats": args.repeats}
    args.out.write_text(json.dumps({"settings": settings, "results": table}, indent=1) + "\n")
    print(tabulate(table, headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
