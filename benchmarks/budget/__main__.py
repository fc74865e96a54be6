"""``python -m benchmarks.budget``: prints the budget of every method as a Markdown table and writes it as JSON."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.budget.simulate import Sampled, TurnLengths, sample_prompt
from tests.assets.recipe_configs import METHODS, compose_arguments, recipe_arguments, rollout_of
from verl_atpo.config import AtpoConfig

SCRIPT = "qwen3_4b_multihop.sh"
COLUMNS = ("leaves", "sampled_tokens", "trained_tokens", "context_tokens", "tool_calls")


async def measure(config: AtpoConfig, lengths: TurnLengths, prompts: int, seed: int) -> dict[str, dict[str, float]]:
    """Mean and half a 95 % confidence interval per prompt, of every column."""
    samples: list[Sampled] = [await sample_prompt(config, lengths, seed + prompt) for prompt in range(prompts)]
    measured = {}
    for column in COLUMNS:
        values = [getattr(sample, column) for sample in samples]
        interval = 1.96 * statistics.stdev(values) / math.sqrt(prompts)
        measured[column] = {"mean": statistics.fmean(values), "interval": interval}
    return measured


def budgets(lengths: TurnLengths, prompts: int, seed: int) -> dict[str, dict[str, Any]]:
    """Per method that trains: its expansion, what a prompt costs, and whether prompts are sampled in vain."""
    result = {}
    for method in METHODS:
        config = compose_arguments(recipe_arguments(SCRIPT, METHOD=method))
        if config.trainer.val_only:
            continue
        rollout = rollout_of(config)
        result[method] = {
            "expansion": dataclasses.asdict(rollout.expansion),
            "filters_groups": bool(config.algorithm.filter_groups.enable),
            "per_prompt": asyncio.run(measure(rollout, lengths, prompts, seed)),
        }
    return result


def table(methods: dict[str, dict[str, Any]]) -> str:
    """The budgets as Markdown; tokens relative to GRPO's chains in brackets."""
    lines = [
        "| method | M + L·K | leaves | sampled tokens | tokens in rows | tool calls |",
        "|---|---|---|---|---|---|",
    ]
    reference = methods["grpo"]["per_prompt"]
    for method, budget in methods.items():
        expansion = budget["expansion"]
        shape = f"{expansion['initial_chains']}"
        if expansion["rounds"]:
            shape += f" + {expansion['rounds']}·{expansion['branches_per_round']}, {expansion['strategy']}"
        cells = [f"{budget['per_prompt']['leaves']['mean']:g}" + (" *" if budget["filters_groups"] else "")]
        for column in ("sampled_tokens", "trained_tokens", "tool_calls"):
            value = budget["per_prompt"][column]
            share = value["mean"] / reference[column]["mean"]
            cells.append(f"{value['mean']:.0f} ± {value['interval']:.0f} ({share:.0%})")
        lines.append(f"| {method} | {shape} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--prompts", type=int, default=200, help="simulated prompts per method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/budget.json"))
    arguments = parser.parse_args()
    lengths = TurnLengths()
    methods = budgets(lengths, arguments.prompts, arguments.seed)
    record = {
        "recipe": SCRIPT,
        "turn_lengths": dataclasses.asdict(lengths),
        "prompts": arguments.prompts,
        "seed": arguments.seed,
        "methods": methods,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"Per prompt, mean of {arguments.prompts} simulated prompts ± 95 % interval; {lengths}\n")
    print(table(methods))
    print(
        "\n* Counts groups that are trained on. Groups with equal rewards are sampled in vain: with a share f of them,"
    )
    print("  sampling costs 1 / (1 - f) times as much, or more (verl asks for two groups per one it throws away).")


if __name__ == "__main__":
    main()
