"""Report on a run, at its end or while it runs: `python -m examples.smollm2.report OUT`.

Beside what every example shows (`examples.kit.summary`) it writes `trees.md`: the first trees of the first step and of
the last, as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from examples.kit.summary import parser, read_run, summarise
from verl_atpo.report.dump_reader import read_trees

TITLE = "SmolLM2-135M with a calculator"

_QUESTION = "<|im_start|>user\n"
_END = "<|im_end|>"


def trees_before_and_after(trees: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first `count` trees of the first step and of the last, as they were dumped: not chosen for what they show."""
    by_step = [list(group) for _, group in groupby(trees, key=lambda tree: tree["global_step"])]
    ends = by_step if len(by_step) == 1 else [by_step[0], by_step[-1]]
    return [tree for group in ends for tree in group[:count]]


def tree_text(tree: dict[str, Any]) -> str:
    """Write one tree as Markdown: a line per turn, indented by depth; `>` marks a turn that was sampled again."""
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
        mark = ">" if node["index"] in tree["selected"] else " "
        origin = f"round {node['round']}  " if node["round"] else ""
        reward = f"  reward {node['reward']:g}" if node["reward"] is not None else ""
        numbers = f"{origin}NLL {node['mean_nll']:.2f}  V {node['value']:.2f}  A {node['advantage']:+.2f}{reward}"
        yield f"{mark} {'    ' * depth}{_one_line(node['observation'])}{_one_line(node['text'])}   [{numbers}]"
        yield from _turns(tree, node["index"], depth + 1)


def _one_line(text: str) -> str:
    text = text.replace("<result>\n", "<result>").replace("\n</result>", "</result>").removesuffix(_END)
    return text.strip("\n").replace("\n", "\\n") + ("  " if text.endswith("</result>\n") else "")


def write_trees(folder: Path, count: int = 3) -> Path:
    """Writes `trees.md`: `count` trees of the first step and of the last; returns the file."""
    file = folder / "trees.md"
    trees = trees_before_and_after(read_trees(folder / "trees"), count)
    file.write_text("\n\n".join(map(tree_text, trees)) + "\n", encoding="utf-8")
    return file


def report(folder: Path, count: int = 3, title: str = TITLE) -> str:
    """Writes curve, summary and trees; returns what there is to say.

    Raises:
        FileNotFoundError: no step has been trained yet.
    """
    said = summarise(read_run(folder), folder, title)
    return f"{said}\n\nsome trees of the first and the last step: {write_trees(folder, count)}"


def main() -> None:
    """Command line."""
    command = parser(__doc__)
    command.add_argument("--trees", type=int, default=3, help="how many trees of the first step and of the last")
    command.set_defaults(title=TITLE)
    options = command.parse_args()
    print(report(options.folder, options.trees, options.title))


if __name__ == "__main__":
    main()
