"""What a run came to, at its end or while it goes on: `python -m examples.smollm2.report DIR`.

A run that was stopped and went on has a file of metrics for each start, `metrics_*.jsonl`. This joins them in
`metrics.jsonl`, draws `learning_curve.png`, prints validation accuracy before and after, and writes `trees.md`: the
first trees of the first step and of the last, as text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from examples.kit.metrics import accuracies, read_steps
from examples.kit.summary import draw_curve, table
from verl_atpo.view.files import read_trees

_QUESTION = "<|im_start|>user\n"
_END = "<|im_end|>"

Steps = list[tuple[int, dict[str, Any]]]


def join_metrics(files: Iterable[Path]) -> Steps:
    """Metrics of all starts, by step.

    Args:
        files: in the order of the starts; a step that two starts logged counts as the later one logged it.
    """
    steps: dict[int, dict[str, Any]] = {}
    for file in files:
        for step, data in read_steps(file):
            steps[step] = {**steps.get(step, {}), **data}
    return sorted(steps.items())


def trees_before_and_after(trees: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first `count` trees of the first step and of the last, as they were dumped: not chosen for what they show."""
    by_step = [list(group) for _, group in groupby(trees, key=lambda tree: tree["global_step"])]
    ends = by_step if len(by_step) == 1 else [by_step[0], by_step[-1]]
    return [tree for group in ends for tree in group[:count]]


def tree_text(tree: dict[str, Any]) -> str:
    """One tree as Markdown: a line per turn, indented by depth; `>` marks a turn that was sampled again."""
    question = tree["prompt"].rpartition(_QUESTION)[2].partition(_END)[0]
    lines = [
        f"**Step {tree['global_step']}.** {question} Right answer: {tree['ground_truth']}. "
        f"Value of the prompt: {tree['root_value']:.2f}.",
        "",
        "```",
        *_turns(tree, parent=0, depth=0),
        "```",
    ]
    return "\n".join(lines)


def _turns(tree: dict[str, Any], parent: int, depth: int) -> Iterator[str]:
    for node in tree["nodes"]:
        if node["parent"] != parent:
            continue
        mark = ">" if node["index"] in tree["picked"] else " "
        origin = f"round {node['round']}  " if node["round"] else ""
        reward = f"  reward {node['reward']:g}" if node["reward"] is not None else ""
        numbers = f"{origin}NLL {node['mean_nll']:.2f}  V {node['value']:.2f}  A {node['advantage']:+.2f}{reward}"
        yield f"{mark} {'    ' * depth}{_one_line(node['observation'])}{_one_line(node['text'])}   [{numbers}]"
        yield from _turns(tree, node["index"], depth + 1)


def _one_line(text: str) -> str:
    text = text.replace("<result>\n", "<result>").replace("\n</result>", "</result>").removesuffix(_END)
    return text.strip("\n").replace("\n", "\\n") + ("  " if text.endswith("</result>\n") else "")


def report(folder: Path, count: int = 3) -> str:
    """Writes the files named above; returns the table of accuracies, or what is there yet.

    Raises:
        FileNotFoundError: no step has been trained yet.
    """
    steps = join_metrics(sorted(folder.glob("metrics_*.jsonl")))
    if not any("critic/score/mean" in data for _, data in steps):
        raise FileNotFoundError(f"no step of training in {folder}/metrics_*.jsonl yet")
    lines = [json.dumps({"step": step, "data": data}) for step, data in steps]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    trees = trees_before_and_after(read_trees(folder / "trees"), count)
    (folder / "trees.md").write_text("\n\n".join(map(tree_text, trees)) + "\n", encoding="utf-8")
    validated = [(step, found) for step, data in steps if (found := accuracies(data))]
    draw_curve(steps, folder / "learning_curve.png", "SmolLM2-135M with a calculator")
    if len(validated) < 2:
        return f"{len(steps)} steps, {len(validated)} validations so far"
    (first, before), (last, after) = validated[0], validated[-1]
    return f"validation accuracy, step {first} and step {last}\n{table(before, after)}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="OUT of run.sh")
    parser.add_argument("--trees", type=int, default=3, help="how many trees of the first step and of the last")
    args = parser.parse_args()
    print(report(args.folder, args.trees))


if __name__ == "__main__":
    main()
