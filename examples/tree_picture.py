"""Draw dumped trees as one HTML page that needs nothing else.

    python -m examples.tree_picture outputs/trees trees.html --trees 1

Trees come from ``algorithm.atpo.dump_dir``. Each column is a turn; a box shows what the turn saw and sampled, its mean
NLL, value and advantage. Green turns are worth more than the tree's mean, red ones less; dashed boxes were grown by an
expansion, and a box with a thick edge was picked to be sampled again.
"""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STYLE = """
body { font: 13px system-ui, sans-serif; margin: 24px; color: #222 }
.prompt { max-width: 70em; white-space: pre-wrap; background: #f2f2f2; padding: 8px; border-radius: 6px }
.children { display: flex; flex-direction: column; gap: 6px; margin-left: 28px; padding-left: 6px;
            border-left: 1px solid #bbb }
.branch { display: flex; align-items: flex-start }
.turn { border: 1px solid #999; border-radius: 6px; padding: 5px 8px; width: 25em; flex: none; white-space: pre-wrap;
        overflow-wrap: anywhere }
.grown { border-style: dashed }
.picked { border-width: 3px; border-color: #35c }
.saw { color: #777 }
.numbers { font-variant-numeric: tabular-nums; color: #555; margin-top: 3px }
.tree { overflow-x: auto; padding: 8px 0 24px }
"""


def read_trees(folder: Path) -> list[dict[str, Any]]:
    """All trees of a dump folder, by step.

    Raises:
        FileNotFoundError: there are none.
    """
    trees = [
        json.loads(line) for file in sorted(folder.glob("trees-*.jsonl")) for line in file.read_text().splitlines()
    ]
    if not trees:
        raise FileNotFoundError(f"no trees in {folder}: run with algorithm.atpo.dump_dir={folder}")
    return sorted(trees, key=lambda tree: tree["global_step"])


def most_telling(trees: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The tree whose branch points differ most in value, the latest of equals."""

    def spread(tree: dict[str, Any]) -> float:
        nodes = {node["index"]: node for node in tree["nodes"]}
        return sum(
            abs(node["value"] - nodes[node["parent"]]["value"]) for node in tree["nodes"] if node["parent"] in nodes
        )

    return max(trees, key=lambda tree: (spread(tree), tree["global_step"]))


def page(trees: Iterable[dict[str, Any]]) -> str:
    """The HTML page of some trees."""
    body = "\n".join(_tree(tree) for tree in trees)
    return f"<!doctype html><meta charset='utf-8'><title>AT2PO trees</title><style>{STYLE}</style>\n{body}\n"


def _tree(tree: dict[str, Any]) -> str:
    children: dict[int, list[dict[str, Any]]] = {}
    for node in tree["nodes"]:
        children.setdefault(node["parent"], []).append(node)
    leaves = sum(node["is_leaf"] for node in tree["nodes"])
    return (
        f"<h2>Step {tree['global_step']}: {leaves} leaves, {len(tree['nodes'])} turns</h2>"
        f"<div class='prompt'>{html.escape(tree['prompt'])}\n\nright answer: {html.escape(str(tree['ground_truth']))}"
        f"   value of the prompt: {tree['root_value']:.2f}</div>"
        f"<div class='tree'>{_branches(0, children, set(tree['picked']))}</div>"
    )


def _branches(parent: int, children: dict[int, list[dict[str, Any]]], picked: set[int]) -> str:
    inner = "".join(
        f"<div class='branch'>{_turn(node, picked)}{_branches(node['index'], children, picked)}</div>"
        for node in children.get(parent, [])
    )
    return f"<div class='children'>{inner}</div>" if inner else ""


def _turn(node: dict[str, Any], picked: set[int]) -> str:
    marks = " grown" * (node["round"] > 0) + " picked" * (node["index"] in picked)
    strength = min(1.0, abs(node["advantage"]) / 2)
    color = f"rgba({'40,160,70' if node['advantage'] > 0 else '210,60,50'},{0.45 * strength:.2f})"
    reward = f"   reward {node['reward']:g}" if node["reward"] is not None else ""
    return (
        f"<div class='turn{marks}' style='background:{color}'>"
        f"<span class='saw'>{html.escape(node['observation'])}</span> {html.escape(node['text'])}"
        f"<div class='numbers'>NLL {node['mean_nll']:.2f}   V {node['value']:.2f}   A {node['advantage']:+.2f}{reward}"
        "</div></div>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump", type=Path, help="folder given as algorithm.atpo.dump_dir")
    parser.add_argument("out", type=Path, help="HTML file to write")
    parser.add_argument("--trees", type=int, default=1, help="how many of the last trees; 1 picks the most telling one")
    arguments = parser.parse_args()
    trees = read_trees(arguments.dump)
    chosen = [most_telling(trees)] if arguments.trees == 1 else trees[-arguments.trees :]
    arguments.out.write_text(page(chosen), encoding="utf-8")


if __name__ == "__main__":
    main()
