"""The few figures that stand for all results: at the top of `docs/results.md`, and what the README quotes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.lab import report as lab
from benchmarks.learning import report as learning
from benchmarks.learning import wall_clock

RESULTS = Path(__file__).parent / "results"
TARGET = 0.8
"""Accuracy that the figure of the README is about."""


def read_rows(file: str, key: str) -> list[dict[str, Any]]:
    """The rows of a result file."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / file).read_text())[key]
    return rows


def figure() -> str:
    """The one figure of the README, in a sentence."""
    curves = lab.counted(RESULTS / "lab", "hopqa")
    cost, steps = (lab.cost_over_grpo(curves, "tree_6_states", TARGET, name) for name in (lab.SAMPLED, "step"))
    fewer, longer = (lab.cost_over_grpo(curves, "grpo_12", TARGET, name) for name in (lab.SAMPLED, "step"))
    return (
        f"**{cost.ratio} of the tokens** that GRPO's chains sample are what these trees sample until "
        f"{TARGET:.0%} accuracy (95 % between {cost.low} and {cost.high}, {cost.pairs} pairs of runs of a tiny model), "
        f"in {steps.ratio} of its steps; GRPO with 12 trajectories, not 16, takes {fewer.ratio} and {longer.ratio}."
    )


def chosen() -> str:
    """What the README quotes: what speaks for trees, with what speaks against them beside it."""
    scale, packed = read_rows("rollout_scale.json", "rows"), read_rows("packed.json", "results")
    curves = lab.counted(RESULTS / "lab", "hopqa")
    asked = ("tree_6_states", "tree_6", "chains_12_states", "grpo_12")
    updates = [row["faster_cpu"] for row in packed if row["mode"] == "update" and "chains" not in row["batch"]]
    rows = {
        **{
            f"{name} to {TARGET:.0%}, over GRPO's: `tree`; contexts apart; 12 chains, merged; 12 of GRPO": "; ".join(
                lab.cost_over_grpo(curves, arm, TARGET, cost).told for arm in asked
            )
            for name, cost in (("sampled tokens", lab.SAMPLED), ("steps", "step"))
        },
        "in verl, packed 4 + 12, clip 0.03/0.04, points over GRPO: at equal wall clock; steps": "; ".join(
            wall_clock.over_grpo(RESULTS / "learning")
        ),
        "`tree` of now, packed, over packed GRPO": "; ".join(
            wall_clock.over_grpo(RESULTS / "learning_merged", wall_clock.PACKED_GRPO, "clock_merged_packed")
        ),
        "rollout's leaves/s over chains, paper's scale, simulated: rounds; continuous": "; ".join(
            spread([row[f"leaves_per_s, {schedule} / chains"] for row in scale], "{:.2f}")
            for schedule in ("rounds", "continuous")
        ),
        "update on trees, `+train=packed` over verl's rows: times faster, in processor time": spread(updates, "{:.1f}"),
        "SmolLM2-135M in `main_ppo`, the same: update; old log-probs; whole step": "; ".join(
            f"{factor:.1f}" for factor in _times_faster("smollm2")
        ),
    }
    return tabulate(rows.items(), headers=("measured on two CPU cores", ""), tablefmt="github", disable_numparse=True)


def _times_faster(task: str) -> list[float]:
    """Packed training over rows in real runs: update and old log-probs, a token each, and a step."""
    runs = {row["training"]: row for row in read_rows("packed_runs.json", "rows") if row["task"] == task}
    costs = ("update_actor_s per 1,000", "old_log_prob_s per 1,000", "step_s")
    return [runs["rows"][cost] / runs["packed"][cost] for cost in costs]


def headlines() -> str:
    """The top of the page of results."""
    rows = {(row["latency"], row["schedule"]): row for row in read_rows("rollout.json", "rows")}
    saturated = {(row["latency"], row["schedule"]): row for row in read_rows("rollout_saturated.json", "rows")}
    ours = [row["ours, ms/turn"] for row in read_rows("rollout_overhead.json", "rows")]
    scale, losses = read_rows("rollout_scale.json", "rows"), read_rows("loss.json", "results")
    measured = learning.headlines(RESULTS / "learning") | {
        **{
            f"{schedule}: leaves/s over chains, {what}": spread([row[f"leaves_per_s{key}"] for row in table], "{:.2f}")
            for schedule in ("continuous", "rounds")
            for what, table, key in (
                ("idle engine", _of(rows, schedule), " / chains"),
                ("saturated engine", _of(saturated, schedule), " / chains"),
                ("paper's scale, simulated", scale, f", {schedule} / chains"),
            )
            if table
        },
        **{
            f"{schedule}: sampled tokens per leaf over chains, paper's scale, simulated": spread(
                [row[f"tokens_per_leaf, {schedule} / chains"] for row in scale], "{:.2f}"
            )
            for schedule in ("continuous", "rounds")
        },
        "continuous: leaves/s with heavy-tailed tools over lock-step, paper's scale, simulated": spread(
            [row["leaves_per_s, continuous / lock-step"] for row in scale if "heavy" in row["tools"]], "{:.2f}"
        ),
        "our work per turn beside the engine, ms": spread(ours, "{:.2f}"),
        "loss: times faster than a loop over turns": spread([row["faster_than_loop"] for row in losses], "{:.0f}"),
        "loss: time over verl's `gspo`": spread([row["time_over_gspo"] for row in losses], "{:.2f}"),
        "loss: peak memory over verl's `gspo`": spread([row["memory_over_gspo"] for row in losses], "{:.2f}"),
    }
    return tabulate(measured.items(), headers=("measured", ""), tablefmt="github", disable_numparse=True)


def spread(values: Sequence[float], form: str) -> str:
    """The smallest and the largest value."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _of(rows: dict[tuple[str, str], dict[str, Any]], schedule: str) -> list[dict[str, Any]]:
    return [row for (_, of), row in rows.items() if of == schedule]
