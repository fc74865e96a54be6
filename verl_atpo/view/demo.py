"""A made-up run, to look around before there is a real one: ``python -m verl_atpo.view --demo``.

The documentation's pictures, the tests and the benchmark show it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_atpo.report.record import Record
from verl_atpo.view.demo_tree import DemoTree

VALIDATED = 5
"""Steps from one validation to the next."""


def demo_trees(count: int, seed: int = 0, per_step: int = 8, words: int = 12) -> Iterator[Record]:
    """Make ``count`` trees of a run that learns, ``per_step`` a step; every question comes up again later."""
    steps = max(1, -(-count // per_step))
    questions = max(1, count // 4)
    for number in range(count):
        step = number // per_step + 1
        skill = 0.35 + 0.6 * step / steps
        yield DemoTree(seed * 1_000_003 + number, step, number % questions, skill, words).record()


def write_demo(folder: Path, count: int = 320, seed: int = 0, per_step: int = 8, words: int = 12) -> None:
    """Write a run's folder: trees, verl's metric file, and validation trajectories."""
    (folder / "trees").mkdir(parents=True, exist_ok=True)
    by_step: dict[int, list[Record]] = {}
    validated: dict[int, list[Record]] = {}
    with (folder / "trees" / "trees-1.jsonl").open("w", encoding="utf-8") as file:
        for record in demo_trees(count, seed, per_step, words):
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
            by_step.setdefault(record["global_step"], []).append(Record(summary=record["summary"]))
            if record["global_step"] % VALIDATED == 0:
                validated.setdefault(record["global_step"], []).append(record)
    for trees in validated.values():
        _write_validation(folder / "validation", trees)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step, records in by_step.items():
            file.write(json.dumps({"step": step, "data": _metrics(step, [each["summary"] for each in records])}) + "\n")


def _write_validation(folder: Path, trees: list[Record]) -> None:
    """Write a validation as verl dumps it: here the chains of a step's trees."""
    folder.mkdir(exist_ok=True)
    step = trees[0]["global_step"]
    lines = []
    for tree in trees:
        leaf = tree["nodes"][0]
        texts = [leaf["text"]]
        while not leaf["is_leaf"]:
            leaf = next(node for node in tree["nodes"] if node["parent"] == leaf["index"])
            texts += [leaf["observation"], leaf["text"]]
        lines.append({"input": tree["prompt"], "output": "".join(texts), "gts": tree["ground_truth"],
                      "score": leaf["reward"], "step": step, "uid": tree["uid"]})  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{step}.jsonl").write_text(text, encoding="utf-8")


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
        "actor/entropy": 1.2 * 0.98**step,
        "actor/ppo_kl": 0.002 + 0.001 * (step % 3),
        "actor/pg_clipfrac": 0.04 + 0.01 * (step % 4),
        "actor/grad_norm": 0.8 + 0.1 * (step % 5),
    }
    if step % VALIDATED == 0:
        metrics["val-core/demo/acc/mean@1"] = min(1.0, mean("reward") + 0.05)
    return metrics
