"""Comparison of turns and of trees: equal contexts, equal turns, differences of two trees."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from verl_atpo.render.layout import ROOT, below, children_of
from verl_atpo.render.text import headline, without_template
from verl_atpo.render.trajectory import leaves_of, path_to

Node = Mapping[str, Any]


def contexts(nodes: Sequence[Node]) -> dict[int, int]:
    """Number the context of every turn, by index; turns of one number were sampled after equal texts.

    The dump says which they are; for an older one, contexts are equal where all turns and observations before are.
    """
    if nodes and all(node.get("context") is not None for node in nodes):
        return {node["index"]: node["context"] for node in nodes}
    numbers: dict[Hashable, int] = {}
    turns: dict[int, int] = {ROOT: 0}
    found = {}
    for node in nodes:
        seen = (turns.get(node["parent"], ROOT), node.get("observation", ""))
        found[node["index"]] = numbers.setdefault(seen, len(numbers))
        turns[node["index"]] = numbers.setdefault((found[node["index"]], _words(node)), len(numbers))
    return found


def _words(node: Node) -> Hashable:
    return tuple(node.get("token_ids") or ()) or node.get("text", "")


def same_context(nodes: Sequence[Node], node: Node, numbers: Mapping[int, int] | None = None) -> list[Node]:
    """List the other turns sampled in the context of ``node``: those after the same turn first.

    Args:
        nodes: nodes of the tree.
        node: one of them.
        numbers: from :func:`contexts`, where they are known already.
    """
    numbers = contexts(nodes) if numbers is None else numbers
    others = [each for each in nodes if each is not node and numbers[each["index"]] == numbers[node["index"]]]
    return sorted(others, key=lambda each: (each["parent"] != node["parent"], each["index"]))


def equal_turns(nodes: Sequence[Node]) -> dict[int, list[int]]:
    """Find the other turns of equal tokens in an equal context, for every node that has some."""
    numbers = contexts(nodes)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for node in nodes:
        groups[numbers[node["index"]], _words(node)].append(node["index"])
    return {
        index: [other for other in group if other != index]
        for group in groups.values()
        if len(group) > 1
        for index in group
    }


def turns_by_words(record: Mapping[str, Any], number: int) -> dict[str, tuple[float, float | None]]:
    """Group a tree's turns of one number by what they say.

    Args:
        record: a tree.
        number: number of the turn, from 1.

    Returns:
        By headline the share of the leaves below (of all leaves, those of shorter trajectories too), and their mean
        reward.
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
        number: number of the turn, from 1.
        before, after: its node in the one tree and in the other; ``None`` where a trajectory has ended.
    """

    number: int
    before: Node | None
    after: Node | None


def best_path(record: Mapping[str, Any]) -> list[Node]:
    """List the turns of the trajectory with the highest reward, the first of equals; empty if none has a reward."""
    nodes = {node["index"]: node for node in record["nodes"]}
    scored = [leaf for leaf in leaves_of(record) if nodes[leaf].get("reward") is not None]
    if not scored:
        return []
    best = max(scored, key=lambda leaf: nodes[leaf]["reward"])
    return [nodes[index] for index in path_to(record, best)]


def side_by_side(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Step]:
    """Pair the turns of the best trajectories of two trees."""
    before, after = best_path(one), best_path(other)
    return [
        Step(at + 1, before[at] if at < len(before) else None, after[at] if at < len(after) else None)
        for at in range(max(len(before), len(after)))
    ]
