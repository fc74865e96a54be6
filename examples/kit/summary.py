"""What an example shows at its end: accuracy before and after by data source, and the learning curve.

python -m examples.kit.summary METRICS.jsonl CURVE.png --title HopQA
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from examples.kit.metrics import accuracies, mean_accuracy, read_steps


def table(before: dict[str, float], after: dict[str, float]) -> str:
    """Validation accuracy by data source, in per cent, and their mean."""
    rows = [(_short(source), before[source], after[source]) for source in sorted(before)]
    rows.append(("mean", sum(before.values()) / len(before), sum(after.values()) / len(after)))
    lines = [f"{'':8}{'before':>8}{'after':>8}{'change':>8}"]
    lines += [f"{name:8}{b:8.1%}{a:8.1%}{100 * (a - b):+8.1f}" for name, b, a in rows]
    return "\n".join(lines)


def _short(source: str) -> str:
    """``2hop`` of ``hopqa_2hop``."""
    return source.rpartition("_")[2]


def draw_curve(steps: list[tuple[int, dict[str, Any]]], out: Path, title: str) -> None:
    """Training reward and validation accuracy over steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    rewards = [(step, data["critic/score/mean"]) for step, data in steps if "critic/score/mean" in data]
    axes.plot(*zip(*rewards, strict=True), color="0.7", label="training reward (mean of all leaves)")
    for source in sorted({source for _, data in steps for source in accuracies(data)}):
        points = [(step, accuracies(data)[source]) for step, data in steps if source in accuracies(data)]
        axes.plot(*zip(*points, strict=True), marker=".", lw=1, label=f"validation, {_short(source)}")
    means = [(step, mean) for step, data in steps if (mean := mean_accuracy(data)) is not None]
    axes.plot(*zip(*means, strict=True), marker="o", color="black", label="validation, mean")
    axes.set(
        xlabel="training step", ylabel="accuracy", ylim=(0, 1), title=f"{title}: verl main_ppo +atpo=tree on a CPU"
    )
    axes.legend(fontsize=8)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", type=Path, help="file of verl's logger `file`")
    parser.add_argument("curve", type=Path, help="PNG to write")
    parser.add_argument("--title", default="HopQA", help="name of the example")
    arguments = parser.parse_args()
    steps = read_steps(arguments.metrics)
    validated = [data for _, data in steps if accuracies(data)]
    if len(validated) < 2:
        raise SystemExit(f"{arguments.metrics} holds {len(validated)} validations, expected one before and one after.")
    before, after = accuracies(validated[0]), accuracies(validated[-1])
    draw_curve(steps, arguments.curve, arguments.title)
    print(table(before, after))
    arguments.metrics.with_name("summary.json").write_text(json.dumps({"before": before, "after": after}, indent=2))


if __name__ == "__main__":
    main()
