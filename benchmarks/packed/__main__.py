"""verl's own engine, with and without padding, against the packed one: `python -m benchmarks.packed`.

    python -m benchmarks.packed [--seed 0] [--models NAME ...] [--batches NAME ...] [--repeats 3]
                                [--scale 1.0] [--out FILE.json] [--resume]

`forward` is what verl does for old log-probs (with entropy), `update` a mini-batch: forward, backward, optimizer step.
The times, of the clock and of the processor, are the shortest of a first call and its repeats, of which both engines
have as many, one after the other; what takes verl over a minute is not repeated. `unpadded` is verl's engine with one
row a micro-batch, so that it pads nothing; `faster_cpu_unpadded` is its processor time over the packed one. The peak is
what the first call needs on top of what was there before. `trie_cpu_seconds` is what the packed engine does for its
packs before the model runs: sorting the rows, planning the packs, building tries and attention; it is a part of its
time. `max_error` is the largest difference of a sampled token's log-probability (forward), and the largest of a
parameter's gradient over its norm, or over a thousandth of the largest norm where that is more (update). Without a CUDA
device everything runs on the CPU in float32, and batches that would take hours are scaled down, else in bfloat16, and
verl's rows without padding where flash-attn is installed.
Writes `benchmarks/results/packed.json`; `--resume` keeps the rows that the file has, if it is of the same seed, threads
and torch.
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
from verl.utils import tensordict_utils as tu  # noqa: E402

from benchmarks.packed.measure import cost_of, with_peak  # noqa: E402
from benchmarks.packed.models import MODELS, write_model  # noqa: E402
from tests.assets.gradients import gradient_error  # noqa: E402
from tests.assets.packed_batches import BATCHES, fitting_scale, make_batch  # noqa: E402
from tests.assets.packed_engines import make_engine, make_loss  # noqa: E402
from tests.assets.packed_rows import Rows, batch_of, counted  # noqa: E402
from verl_atpo.packed.engine import token_budget  # noqa: E402
from verl_atpo.packed.packs import pack_tokens, plan_packs  # noqa: E402
from verl_atpo.packed.rows import row_tokens  # noqa: E402
from verl_atpo.packed.trie import sort_rows  # noqa: E402

LONG_S = 60
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
    return gradient_error(packed, own)


def measure(engines: dict[str, Any], rows: Rows, mode: str, settings: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Both engines in turn; the first calls are for memory and results too."""
    calls = {
        name: functools.partial({"forward": forward, "update": update}[mode], engine, rows, settings)
        for name, engine in engines.items()
    }
    apart = {key: value for key, value in settings.items() if key != "max_token_len_per_gpu"}
    apart |= {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 1}
    calls["unpadded"] = functools.partial(calls["verl"].func, engines["verl"], rows, apart)
    found, peaks, first = {}, {}, {}
    for name, call in calls.items():
        (found[name], first[name]), peaks[name] = with_peak(functools.partial(cost_of, call))
        engines["verl" if name == "unpadded" else name].optimizer_zero_grad()
    worst = error(mode, found["verl"], found["packed"])
    found.clear()
    more = repeats if first["verl"].seconds < LONG_S else 0
    costs = [first, *({name: cost_of(call)[1] for name, call in calls.items()} for _ in range(more))]
    seconds = {name: min(each[name].seconds for each in costs) for name in calls}
    cpu = {name: min(each[name].cpu_seconds for each in costs) for name in calls}
    trie = building(engines["packed"], rows, settings)
    return {
        "calls": len(costs),
        **{f"seconds_{name}": round(value, 4) for name, value in seconds.items()},
        **{f"cpu_seconds_{name}": round(value, 4) for name, value in cpu.items()},
        "faster": round(seconds["verl"] / seconds["packed"], 3),
        "faster_cpu": round(cpu["verl"] / cpu["packed"], 3),
        "faster_cpu_unpadded": round(cpu["unpadded"] / cpu["packed"], 3),
        "trie_cpu_seconds": round(trie, 5),
        "trie_share": round(trie / cpu["packed"], 5),
        **{f"peak_{name}": peak for name, peak in peaks.items()},
        "peak_over_verl": round(peaks["packed"] / peaks["verl"], 3),
        "max_error": worst,
    }


def building(engine: Any, rows: Rows, settings: dict[str, Any]) -> float:
    """Processor seconds of the packed engine for a batch's packs and their inputs; the shortest of three."""
    data = batch_of(rows, list(range(len(rows.uids))), 0, **settings)

    def plan() -> list[list[int]]:
        ordered = sort_rows(*row_tokens(data))
        return [ordered.order_R[begin:end].tolist() for begin, end in engine._plan(data, ordered)]

    packs = [tu.index_select_tensor_dict(data, index) for index in plan()]
    costs = []
    for _ in range(3):
        costs.append(cost_of(plan)[1].cpu_seconds)
        costs[-1] += sum(cost_of(functools.partial(engine.prepare_model_inputs, pack))[1].cpu_seconds for pack in packs)
    return min(costs)


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


def lines(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines of the table, one after the other. A batch with longer rows than the model's budget is left out."""
    precision: dict[str, Any] = {"dtype": "bf16"} if CUDA else {}
    precision |= {"remove_padding": True, "attention": "flash_attention_2"} if FLASH else {}
    for name in options.models:
        model = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_model(name, Path(folder))
            engines = {
                kind: make_engine(kind, checkpoint, checkpointing=model.checkpointing, lr=1e-6, **precision)
                for kind in ("verl", "packed")
            }
        settings: dict[str, Any] = {"use_dynamic_bsz": True, "max_token_len_per_gpu": model.budget}
        settings |= {"use_remove_padding": FLASH, "global_batch_size": 22}
        for batch in options.batches:
            scale = options.scale or (1.0 if CUDA else fitting_scale(BATCHES[batch], options.seed, model.cpu_tokens))
            rows = make_batch(BATCHES[batch], options.seed, model.config.vocab_size, scale)
            if max(map(len, rows.whole())) > model.budget:
                continue
            for mode in ("forward", "update"):
                line = {
                    "device": "cuda" if CUDA else "cpu", "model": name, "batch": batch, "scale": scale, "mode": mode
                }  # fmt: skip
                if same := [each for each in known if key_of(each) == key_of(line)]:
                    yield same[0]
                    continue
                yield {**line, **tokens_of(rows, settings), **measure(engines, rows, mode, settings, options.repeats)}


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a line, in the table's order."""
    places = list(MODELS).index(line["model"]), list(BATCHES).index(line["batch"])
    return line["device"], *places, -line["scale"], line["mode"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the batches")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, help="factor of all lengths (default: 1, smaller for what takes hours)")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for the table")
    parser.add_argument("--resume", action="store_true", help="keep what the file has")
    args = parser.parse_args()
    settings = {"torch": torch.__version__, "threads": torch.get_num_threads(), "seed": args.seed}
    stands = json.loads(args.out.read_text()) if args.resume and args.out.is_file() else {}
    if stands and stands["settings"] != settings:
        raise SystemExit(
            f"--resume: {args.out} is of {stands['settings']}, this run of {settings}; give another --out."
        )
    known = stands.get("results", [])
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if CUDA else "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
        )
        table = []
        for line in lines(args, known):
            table.append(line)
            others = [each for each in known if all(key_of(each) != key_of(one) for one in table)]
            results = sorted(table + others, key=key_of)
            args.out.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
            print(json.dumps(line), flush=True)
        dist.destroy_process_group()
    print(tabulate(table, headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
