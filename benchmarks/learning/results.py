"""The record that stays of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning.task import ROOT
from verl_atpo.report.metrics_file import Steps, accuracies

RESULTS = ROOT / "benchmarks" / "results" / "learning.jsonl"

KEPT = {
    "sampled_tokens": "atpo/sampled_tokens",
    "nodes_per_tree": "atpo/nodes_per_tree",
    "equal_rewards_share": "atpo/equal_rewards_share",
    "branched_mean_nll": "atpo/branched_mean_nll",
    "branched_turn": "atpo/branched_turn",
    "reward": "critic/score/mean",
    "clipped_share": "actor/pg_clipfrac",
    "kl": "actor/ppo_kl",
    "gradient_norm": "actor/grad_norm",
    "turns_per_row": "atpo/depth/mean",
    "seconds": "timing_s/step",
}
"""Name in the result file -> verl's metric; one value a step, null where an arm has none."""


def record(arm: str, seed: int, overrides: Sequence[str], steps: Steps, seconds: float) -> dict[str, Any]:
    """Make the record of a run: its settings, a list of values for each of `KEPT`, and the validations.

    Args:
        arm, seed: which run.
        overrides: what the arm sets.
        steps: what verl's logger wrote.
        seconds: wall clock of the run, validations included.
    """
    trained = [data for _, data in steps if "critic/score/mean" in data]
    return {
        "arm": arm,
        "seed": seed,
        "overrides": list(overrides),
        "seconds": round(seconds, 1),
        "steps": {name: [_short(data.get(metric)) for data in trained] for name, metric in KEPT.items()},
        "validation": [{"step": step, "accuracy": accuracies(data)} for step, data in steps if accuracies(data)],
    }


def write(content: dict[str, Any], file: Path) -> None:
    """Write a result in one piece: the file stands for a finished run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(content) + "\n")
    unfinished.replace(file)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
