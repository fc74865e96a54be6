"""Summary of an example, at its end or while it runs: accuracy before and after, and the learning curve.

    python -m examples.kit.summary OUT --title HopQA

Reads `metrics*.jsonl`, a file for each start of the run; writes `learning_curve.png` and `summary.json` beside them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from verl_atpo.report.metrics_file import Steps, accuracies, mean_accuracy, read_steps


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


def draw_curve(steps: Steps, out: Path, title: str) -> None:
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


def read_run(folder: Path) -> Steps:
    """The steps of all starts of a run.

    Raises:
        FileNotFoundError: no step has been trained yet.
    """
    steps = read_steps(*sorted(folder.glob("metrics*.jsonl")))
    if not any("critic/score/mean" in data for _, data in steps):
        raise FileNotFoundError(f"no step of training in {folder}/metrics*.jsonl yet")
    return steps


def summarise(steps: Steps, folder: Path, title: str) -> str:
    """Draws the curve and writes the summary; returns the table of accuracies, or how far the run is.

    Args:
        steps: of :func:`read_run`.
        folder: where the files go.
        title: name of the example.
    """
    draw_curve(steps, folder / "learning_curve.png", title)
    validated = [(step, found) for step, data in steps if (found := accuracies(data))]
    if len(validated) < 2:
        return f"step {steps[-1][0]}, {len(validated)} validations so far"
    (first, before), (last, after) = validated[0], validated[-1]
    (folder / "summary.json").write_text(json.dumps({"before": before, "after": after}, indent=2) + "\n")
    return f"validation at step {first} and at step {last}\n{table(before, after)}"


def parser(module_doc: str | None) -> argparse.ArgumentParser:
    """The command line of a report on a run."""
    made = argparse.ArgumentParser(description=(module_doc or "").splitlines()[0])
    made.add_argument("folder", type=Path, help="OUT of the run script")
    made.add_argument("--title", default="", help="name of the example, for the curve")
    return made


def main() -> None:
    """Command line."""
    options = parser(__doc__).parse_args()
    print(summarise(read_run(options.folder), options.folder, options.title))


if __name__ == "__main__":
    main()
