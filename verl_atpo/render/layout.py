"""The layout of a tree: a column per turn, a row per leaf, a parent half-way between its outer children."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

ROOT = 0


@dataclasses.dataclass(frozen=True)
class Place:
    """Position of one visible turn.

    Attributes:
        index: index of the node.
        parent: the node before.
        column: number of the turn, 0 for the root.
        row: in leaves from the top; halves are in between.
        hidden: turns folded away below it.
        hidden_leaves: leaves among those.
    """

    index: int
    parent: int
    column: int
    row: float
    hidden: int = 0
    hidden_leaves: int = 0


@dataclasses.dataclass(frozen=True)
class Layout:
    """A tree laid out.

    Attributes:
        places: by node, parents before children; the root's too.
        rows: number of rows.
        columns: number of columns, the root's included.
    """

    places: Mapping[int, Place]
    rows: int
    columns: int


def children_of(nodes: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
    """List the children of every node that has some, in order of sampling."""
    children: dict[int, list[int]] = {}
    for node in nodes:
        children.setdefault(node["parent"], []).append(node["index"])
    return children


def below(children: Mapping[int, Sequence[int]], index: int) -> list[int]:
    """List all nodes below ``index``."""
    found, waiting = [], list(children.get(index, ()))
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += children.get(node, ())
    return found


def lay_out(nodes: Sequence[Mapping[str, Any]], folded: Collection[int] = ()) -> Layout:
    """Place all turns except those below a folded one.

    Args:
        nodes: entries of a record.
        folded: nodes whose children are hidden.
    """
    children = children_of(nodes)
    parents = {node["index"]: node["parent"] for node in nodes}
    order, column, waiting = [], {ROOT: 0}, [ROOT]
    while waiting:  # parents first, children from top to bottom
        index = waiting.pop()
        order.append(index)
        shown = [] if index in folded else children.get(index, [])
        for child in reversed(shown):
            column[child] = column[index] + 1
            waiting.append(child)
    row: dict[int, float] = {}
    rows = 0
    for index in order:
        if index in folded or not children.get(index):
            row[index] = float(rows)
            rows += 1
    places = {}
    for index in reversed(order):
        if index not in row:
            row[index] = (row[children[index][0]] + row[children[index][-1]]) / 2
        hidden = below(children, index) if index in folded else []
        leaves = sum(not children.get(each) for each in hidden)
        places[index] = Place(index, parents.get(index, -1), column[index], row[index], len(hidden), leaves)
    ordered = {index: places[index] for index in order}
    return Layout(ordered, max(rows, 1), max(column.values()) + 1)


def neighbour(layout: Layout, index: int, direction: str) -> int:
    """Find the node that an arrow key leads to from ``index``; itself if there is none.

    Args:
        layout: layout of the visible turns.
        index: the current node.
        direction: ``left``, ``right``, ``up`` or ``down``.
    """
    here = layout.places.get(index)
    if here is None:
        return ROOT
    if direction == "left":
        return here.parent if here.parent in layout.places else index
    if direction == "right":
        return next((place.index for place in layout.places.values() if place.parent == index), index)
    sign = 1 if direction == "down" else -1
    column = [place for place in layout.places.values() if place.column == here.column]
    ahead = [place for place in column if (place.row - here.row) * sign > 0]
    return min(ahead, key=lambda place: (place.row - here.row) * sign).index if ahead else index
