"""Rollout speed on one vLLM server: chains, trees by both schedules, and rounds in lock-step, side by side.

    VERL_PLATFORM=cpu python -m benchmarks.rollout            # on a CPU; without the variable, on a GPU
    python -m benchmarks.rollout --model Qwen/Qwen3-4B ...
    python -m benchmarks.rollout --prompts 24 --max-num-seqs 32 --out FILE  # more than the engine takes at once

Writes ``benchmarks/results/rollout.json`` and prints a table. A repetition runs every schedule once, in random order,
each from an empty prefix cache; figures are medians, ratios are medians of the ratios within a repetition. ``--resume``
keeps the runs that the file has with the same settings on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.rollout.agent import Latency, Workload, heavy_tailed
from benchmarks.rollout.engine import VllmClient, vllm_server
from benchmarks.rollout.schedules import SCHEDULES, Batch, rounds, speeds
from verl_atpo.config import AtpoConfig

RESULT = Path(__file__).parents[1] / "results" / "rollout.json"
LATENCIES = {
    "no latency": Latency(),
    "constant": Latency(median_s=0.1),
    "heavy-tailed": heavy_tailed(0.1),
    "slow, heavy-tailed": heavy_tailed(0.3),
}


async def measure(client: VllmClient, batch: Batch, schedule: str) -> dict[str, float]:
    """One schedule, once. `busy` is the CPU time of this process, in which everything but the engine runs, a second."""
    await client.forget()
    before, started, cpu = client.sampled_tokens, time.perf_counter(), time.process_time()
    leaves = await SCHEDULES[schedule](client, batch)
    seconds, sampled = time.perf_counter() - started, client.sampled_tokens - before
    return {**speeds(leaves, sampled, seconds), "busy": (time.process_time() - cpu) / seconds}


def repetitions(repeats: int, known: list[dict[str, Any]]) -> Iterator[tuple[str, int, list[str]]]:
    """List latency, number and schedules of incomplete repetitions, which have to run again as a whole."""
    for number in range(repeats):
        for latency in LATENCIES:
            done = {run["schedule"] for run in known if (run["latency"], run["repetition"]) == (latency, number)}
            if done != set(SCHEDULES):
                yield latency, number, random.Random(f"{latency} {number}").sample(list(SCHEDULES), len(SCHEDULES))


async def compare(
    options: argparse.Namespace, model: Path, known: list[dict[str, Any]], keep: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Run all schedules under all latencies; pass all runs on after every repetition."""
    config, workload = AtpoConfig(), Workload()
    longest = workload.prompt_tokens + workload.max_turns * (
        4 * workload.median_turn_tokens + workload.observation_tokens
    )
    missing = list(repetitions(options.repeats, known))
    again = {(latency, number) for latency, number, _ in missing}
    records = [run for run in known if (run["latency"], run["repetition"]) not in again]
    async with vllm_server(model, max_model_len=longest + 8, max_num_seqs=options.max_num_seqs) as client:
        warm = Batch(2, config, workload, Latency())
        await rounds(client, warm)
        for name, repetition, order in missing:
            batch = Batch(options.prompts, config, workload, LATENCIES[name], seed=repetition)
            for schedule in order:
                figures = await measure(client, batch, schedule)
                records.append({"latency": name, "repetition": repetition, "schedule": schedule, **figures})
                print(f"{name}, {schedule}: {figures['seconds']:.1f} s", flush=True)
            keep(records)


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians per latency and schedule, and speed relative to chains and to lock-step."""
    rows = []
    for latency in filter({each["latency"] for each in records}.__contains__, LATENCIES):
        for schedule in SCHEDULES:
            runs = [each for each in records if (each["latency"], each["schedule"]) == (latency, schedule)]
            row: dict[str, Any] = {"latency": latency, "schedule": schedule}
            for figure in ("seconds", "busy", "leaves_per_s", "tokens_per_s", "tokens_per_leaf"):
                row[figure] = statistics.median(run[figure] for run in runs)
            for other, figure in (
                ("chains", "leaves_per_s"),
                ("chains", "tokens_per_leaf"),
                ("lock-step", "leaves_per_s"),
            ):
                base = {
                    run["repetition"]: run for run in records if (run["latency"], run["schedule"]) == (latency, other)
                }
                row[f"{figure} / {other}"] = statistics.median(
                    run[figure] / base[run["repetition"]][figure] for run in runs
                )
            rows.append(row)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="checkpoint (default: a small random one)")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-num-seqs", type=int, default=256, help="requests that the engine works on at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--resume", action="store_true", help="keep the runs that the file has")
    options = parser.parse_args()
    settings = {
        "settings": {
            "prompts": options.prompts,
            "max_num_seqs": options.max_num_seqs,
            "repeats": options.repeats,
            "model": str(options.model or "small"),
        },
        "machine": {"cpus": os.cpu_count(), "platform": os.environ.get("VERL_PLATFORM", "")},
    }
    stands = json.loads(options.out.read_text()) if options.resume and options.out.is_file() else {}
    known = stands["runs"] if settings.items() <= stands.items() else []

    def keep(records: list[dict[str, Any]]) -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**settings, "rows": summary(records), "runs": records}, indent=1))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(options, options.model or small_model(Path(folder)), known, keep))
    rows = json.loads(options.out.read_text())["rows"]
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))


def small_model(folder: Path) -> Path:
    """A random Qwen3 of 4 million parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from verl_atpo.tiny.tokenizer import word_tokenizer

    tokenizer = word_tokenizer(["user assistant tool"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
