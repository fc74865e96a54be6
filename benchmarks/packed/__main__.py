"""verl's own engine against the packed one, in turn, on the same batch: `python -m benchmarks.packed`.

    python -m benchmarks.packed [--seed 0] [--models 0.2M 10M 135M] [--batches ...] [--repeats 3]
                                [--scale 1.0] [--out FILE.json]

`forward` is what verl does for old log-probs (with entropy), `update` a mini-batch: forward, backward, optimizer step.
The times, of the clock and of the processor, are the shortest of the repeats, of which both engines have as many, one
after the other. The peak is what a call needs on top of what was there before. `max_error` is the largest difference of
a sampled token's log-probability (forward), and the largest of a parameter's gradient over its norm (update). Without a
CUDA device everything runs on the CPU in float32, else in bfloat16, and verl's rows without padding where flash-attn
is installed.
Writes `benchmarks/results/packed.json`.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

CUDA = torch.cuda.is_available()
FLASH = CUDA and importlib.util.find_spec("flash_attn") is not None
if not CUDA:
    os.environ.setdefault("VERL_PLATFORM", "cpu")  # before verl is imported

import torch.distributed as dist  # noqa: E402
from tabulate import tabulate  # noqa: E402

from benchmarks.packed.batches import BATCHES, make_batch  # noqa: E402
from benchmarks.packed.engines import make_engine, make_loss  # noqa: E402
from benchmarks.packed.measure import cost_of, with_peak  # noqa: E402
from benchmarks.packed.models import MODELS, write_model  # noqa: E402
from benchmarks.packed.rows import Rows, batch_of, counted  # noqa: E402
from verl_atpo.training.engine import token_budget  # noqa: E402
from verl_atpo.training.packs import pack_tokens, plan_packs  # noqa: E402
from verl_atpo.training.rows import row_tokens  # noqa: E402
from verl_atpo.training.trie import sort_rows  # noqa: E402

RESULT = Path(__file__).parents[1] / "results" / "packed.json"


def forward(engine: Any, rows: Rows, settings: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities of all sampled tokens."""
    chosen = list(range(len(rows.uids)))
    with engine.eval_mode():
        output = engine.infer_batch(batch_of(rows, chosen, 0, calculate_entropy=True, **settings))
    return torch.cat(counted(rows, chosen, output["model_output"]["log_probs"].cpu()))


def update(engine: Any, rows: Rows, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Gradients of an update."""
    data = batch_of(rows, list(range(len(rows.uids))), 0, calculate_entropy=False, **settings)
    with engine.train_mode(zero_grad_on_exit=False):
        engine.train_batch(data, make_loss())
    return {name: parameter.grad.full_tensor() for name, parameter in engine.module.named_parameters()}


def error(mode: str, own: Any, packed: Any) -> float:
    """Largest difference, see the module's text."""
    if mode == "forward":
        return float((own - packed).abs().max())
    return max(float((own[name] - packed[name]).norm() / own[name].norm().clamp(min=1e-12)) for name in own)


def measure(engines: dict[str, Any], rows: Rows, mode: str, settings: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Both engines in turn; the first calls are for memory and results, and warm up."""
    calls = {
        name: functools.partial({"forward": forward, "update": update}[mode], engine, rows, settings)
        for name, engine in engines.items()
    }
    found, peaks = {}, {}
    for name, call in calls.items():
        found[name], peaks[name] = with_peak(call)
        engines[name].optimizer_zero_grad()
    worst = error(mode, found["verl"], found["packed"])
    found.clear()
    costs = [{name: cost_of(call) for name, call in calls.items()} for _ in range(repeats)]
    seconds = {name: min(each[name].seconds for each in costs) for name in calls}
    cpu = {name: min(each[name].cpu_seconds for each in costs) for name in calls}
    return {
        **{f"seconds_{name}": round(value, 4) for name, value in seconds.items()},
        **{f"cpu_seconds_{name}": round(value, 4) for name, value in cpu.items()},
        "faster": round(seconds["verl"] / seconds["packed"], 3),
        "faster_cpu": round(cpu["verl"] / cpu["packed"], 3),
        **{f"peak_{name}": peak for name, peak in peaks.items()},
        "peak_over_verl": round(peaks["packed"] / peaks["verl"], 3),
        "max_error": worst,
    }


def tokens_of(rows: Rows, settings: dict[str, Any]) -> dict[str, Any]:
    """Tokens of the batch, and what the packed engine runs of them within the budget."""
    data = batch_of(rows, list(range(len(rows.uids))), 0, **settings)
    ordered = sort_rows(*row_tokens(data))
    packs = plan_packs(ordered, token_budget(data))
    total = int(ordered.length_R.sum())
    run = sum(pack_tokens(ordered, pack) for pack in packs)
    return {
        "rows_tokens": total,
        "distinct_tokens": ordered.distinct,
        "run_tokens": run,
        "packs": len(packs),
        "token_ratio": round(total / run, 3),
    }


def lines(names: list[str], batches: list[str], seed: int, repeats: int, scale: float) -> Iterator[dict[str, Any]]:
    """The lines of the table, one after the other. A batch with longer rows than the model's budget is left out."""
    precision: dict[str, Any] = {"dtype": "bf16"} if CUDA else {}
    precision |= {"remove_padding": True, "attention": "flash_attention_2"} if FLASH else {}
    for name in names:
        model = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_model(name, Path(folder))
            engines = {
                kind: make_engine(kind, checkpoint, checkpointing=model.checkpointing, lr=1e-6, **precision)
                for kind in ("verl", "packed")
            }
        settings: dict[str, Any] = {"use_dynamic_bsz": True, "max_token_len_per_gpu": model.budget}
        settings |= {"use_remove_padding": FLASH, "global_batch_size": 22}
        for batch in batches:
            rows = make_batch(BATCHES[batch], seed, model.config.vocab_size, scale)
            if max(map(len, rows.whole())) > model.budget:
                continue
            described = {"device": "cuda" if CUDA else "cpu", "model": name, "batch": batch, "scale": scale}
            tokens = tokens_of(rows, settings)
            for mode in ("forward", "update"):
                yield {**described, "mode": mode, **tokens, **measure(engines, rows, mode, settings, repeats)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the batches")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all lengths")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if CUDA else "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
        )
        settings = {"torch": torch.__version__, "threads": torch.get_num_threads(), **vars(args), "out": args.out.name}
        table = []
        for line in lines(args.models, args.batches, args.seed, args.repeats, args.scale):
            table.append(line)
            args.out.write_text(json.dumps({"settings": settings, "results": table}, indent=1) + "\n")
            print(json.dumps(line), flush=True)
        dist.destroy_process_group()
    print(tabulate(table, headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
