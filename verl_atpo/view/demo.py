"""A made-up run, for a look around before there is one of one's own: ``python -m verl_atpo.view --demo``.

The documentation's pictures, the tests and the benchmark show it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_atpo.report.record import Record
from verl_atpo.view.demo_tree import DemoTree


def demo_trees(count: int, seed: int = 0, per_step: int = 8, words: int = 12) -> Iterator[Record]:
    """``count`` trees of a run that learns, ``per_step`` a step; every question comes up again later."""
    steps = max(1, -(-count // per_step))
    questions = max(1, count // 4)
    for number in range(count):
        step = number // per_step + 1
        skill = 0.35 + 0.6 * step / steps
        yield DemoTree(seed * 1_000_003 + number, step, number % questions, skill, words).record()


def write_demo(folder: Path, count: int = 320, seed: int = 0, per_step: int = 8, words: int = 12) -> None:
    """A run's folder: trees and verl's metric file."""
    (folder / "trees").mkdir(parents=True, exist_ok=True)
    by_step: dict[int, list[Record]] = {}
    with (folder / "trees" / "trees-1.jsonl").open("w", encoding="utf-8") as file:
        for record in demo_trees(count, seed, per_step, words):
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
            by_step.setdefault(record["global_step"], []).append(Record(summary=record["summary"]))
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step, records in by_step.items():
            file.write(json.dumps({"step": step, "data": _metrics(step, [each["summary"] for each in records])}) + "\n")


def _metrics(step: int, summaries: list[Any]) -> dict[str, float]:
    def mean(name: str) -> float:
        return sum(summary[name] or 0.0 for summary in summaries) / len(summaries)

    metrics = {
        "training/global_step": float(step),
        "critic/score/mean": mean("reward"),
        "atpo/trees": float(len(summaries)),
        "atpo/leaves_per_tree": mean("leaves"),
        "atpo/nodes_per_tree": mean("nodes"),
        "atpo/depth/mean": mean("depth"),
        "atpo/sampled_tokens": mean("sampled_tokens") * len(summaries),
        "atpo/saved_tokens_share": mean("saved"),
        "atpo/tool_errors": mean("tool_errors") * len(summaries),
        "atpo/equal_rewards_share": sum(summary["outcome"] == "equal" for summary in summaries) / len(summaries),
        "atpo/tree_seconds/mean": mean("seconds"),
        "timing_s/step": mean("seconds") * 1.6,
    }
    if step % 5 == 0:
        metrics["val-core/demo/acc/mean@1"] = min(1.0, mean("reward") + 0.05)
    return metrics
