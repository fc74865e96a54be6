"""Which turns say the same, and what changed between two trees of a prompt."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from verl_atpo.view.layout import below, children_of
from verl_atpo.view.row import leaves_of, path_to
from verl_atpo.view.text import headline, without_template

Node = Mapping[str, Any]


def twins(nodes: Sequence[Node]) -> dict[int, list[int]]:
    """The siblings that say the same as a node, token by token, after the same observation; of nodes that have some."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for node in nodes:
        words = tuple(node.get("token_ids") or ()) or node.get("text", "")
        groups[node["parent"], node.get("observation", ""), words].append(node["index"])
    return {
        index: [other for other in group if other != index]
        for group in groups.values()
        if len(group) > 1
        for index in group
    }


def turns_by_words(record: Mapping[str, Any], number: int) -> dict[str, tuple[float, float | None]]:
    """What trajectories say in their turn ``number``: by headline the share of leaves below it, and their mean reward.

    Args:
        record: a tree.
        number: of the turn, from 1. Shares are of all leaves, those of shorter trajectories too.
    """
    nodes = {node["index"]: node for node in record["nodes"]}
    children = children_of(record["nodes"])
    leaves: dict[str, int] = defaultdict(int)
    rewards: dict[str, list[float]] = defaultdict(list)
    for index in (index for index, node in nodes.items() if node["turn"] == number):
        words = headline(without_template(nodes[index]["text"], record.get("template") or []))
        for each in [index, *below(children, index)]:
            if nodes[each].get("is_leaf"):
                leaves[words] += 1
                if nodes[each].get("reward") is not None:
                    rewards[words].append(nodes[each]["reward"])
    total = sum(bool(node.get("is_leaf")) for node in nodes.values()) or 1
    means = {words: sum(each) / len(each) for words, each in rewards.items()}
    return {words: (count / total, means.get(words)) for words, count in leaves.items()}


@dataclasses.dataclass(frozen=True)
class Step:
    """One turn of two trajectories, side by side.

    Attributes:
        number: of the turn, from 1.
        before, after: its node in the one tree and in the other; ``None`` where a trajectory has ended.
    """

    number: int
    before: Node | None
    after: Node | None


def best_path(record: Mapping[str, Any]) -> list[Node]:
    """The turns of the trajectory with the highest reward, the first of those; empty if none ended with one."""
    nodes = {node["index"]: node for node in record["nodes"]}
    scored = [leaf for leaf in leaves_of(record) if nodes[leaf].get("reward") is not None]
    if not scored:
        return []
    best = max(scored, key=lambda leaf: nodes[leaf]["reward"])
    return [nodes[index] for index in path_to(record, best)]


def side_by_side(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Step]:
    """The best trajectories of two trees, turn by turn."""
    before, after = best_path(one), best_path(other)
    return [
        Step(at + 1, before[at] if at < len(before) else None, after[at] if at < len(after) else None)
        for at in range(max(len(before), len(after)))
    ]
