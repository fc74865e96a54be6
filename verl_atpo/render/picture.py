"""The picture of a tree: SVG that is the same on the page, in an exported file and in a paper.

The group of a turn carries ``data-node``, a fold mark ``data-fold``, by which a click on the page finds them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from verl_atpo.render import legend
from verl_atpo.render.colors import ColorBy, Scale, scale_of, shade
from verl_atpo.render.comparison import equal_turns
from verl_atpo.render.layout import ROOT, Layout, Place, lay_out
from verl_atpo.render.svg import (
    BADGE,
    CHARACTER,
    EM,
    FAINT,
    INK,
    LINE,
    SELECTED,
    SMALL,
    TEXT_SIZE,
    badge,
    badge_width,
    box,
    finished,
    number,
    picture,
    text,
)
from verl_atpo.render.text import HEADLINE_READS, columns, headline, shorten, visible, without_template, wrap
from verl_atpo.render.trajectory import results

MARGIN, HEADER = 12, 20
"""Pixels around the picture, and of the line with the numbers of turns."""
HEADING_LINE, BELOW_HEADING = 18, 6
"""Pixels of a line of the heading, and between the heading and the legend."""
LEAST = 560
"""Least width of a picture in pixels, for its legend and heading."""
NARROW = 160
"""Width of a box, in pixels, up to which its numbers are advantage and value only."""


@dataclasses.dataclass(frozen=True)
class Style:
    """Measures of a picture, in pixels.

    Attributes:
        width: width of a turn's box.
        height: height of a turn's box.
        gap: between columns.
        between: between rows.
        lines: lines of text in a box.
        root: width of the prompt's box.
    """

    width: int = 196
    height: int = 52
    gap: int = 26
    between: int = 8
    lines: int = 2
    root: int = 76

    @property
    def characters(self) -> int:
        """Columns of text that fit into a line."""
        return int((self.width - 20) / CHARACTER)


def style_for(layout: Layout, headlines: Collection[str], answers: bool) -> Style:
    """Choose narrow boxes for a deep tree, and one line of text where there are many leaves or no turn needs two."""
    style = Style(width=152, gap=22) if layout.columns > 6 else Style()
    longest = max((sum(map(columns, words)) for words in headlines), default=0)
    if layout.rows > 18 or (longest <= style.characters and not answers):
        return dataclasses.replace(style, height=38, between=6, lines=1)
    return style


def task_lines(record: Mapping[str, Any], width: int) -> list[tuple[str, str]]:
    """Write the question and the right answer in lines of at most ``width`` columns, each with its weight."""
    asked = without_template(record.get("prompt") or "", record.get("template") or []).strip().splitlines()
    found = [(line, "600") for line in wrap(" ".join(" ".join(asked).split()), width, 2)]
    truth = record.get("ground_truth")
    if truth is not None:
        words = " or ".join(map(str, truth)) if isinstance(truth, list) else str(truth)
        found.append((shorten(" ".join(f"Right answer: {words}".split()), width), "400"))
    return found


class _Picture:
    """One drawing that is being made."""

    def __init__(
        self,
        record: Mapping[str, Any],
        folded: Collection[int],
        by: ColorBy,
        selected: int | None,
        links: bool,
        folds: bool,
        heading: bool,
    ) -> None:
        self.links, self.folds = links, folds
        self.record = record
        self.nodes = {node["index"]: node for node in record.get("nodes") or []}
        template = record.get("template") or []
        self.headlines = {
            index: headline(without_template(node.get("text", ""), template)) for index, node in self.nodes.items()
        }
        self.layout = lay_out(list(self.nodes.values()), folded)
        self.parents = {place.parent for place in self.layout.places.values()}
        self.answers = {
            index: headline(without_template(text[:HEADLINE_READS], template))
            for index, text in results(record).items() if index in self.nodes
        }  # fmt: skip
        self.style = style = style_for(self.layout, self.headlines.values(), bool(self.answers))
        self.scale: Scale = scale_of(record, by)
        self.selected = selected
        self.equal = equal_turns(list(self.nodes.values()))
        self.selections = Counter(record.get("selected") or [])
        self.rewards = [node["reward"] for node in self.nodes.values() if node.get("reward") is not None]
        columns = 2 * MARGIN + style.root + (self.layout.columns - 1) * (style.width + style.gap) + 44
        width = max(columns, LEAST)
        self.heading = task_lines(record, int((width - 2 * MARGIN) / (1.08 * CHARACTER))) if heading else []
        self.legend = legend.lines(self.scale, width - 2 * MARGIN)
        self.head = MARGIN + HEADING_LINE * len(self.heading) + (BELOW_HEADING if self.heading else 0)
        self.above = self.head + legend.LINE_HEIGHT * len(self.legend) + HEADER
        self.svg = picture(width, self.above + self.layout.rows * (style.height + style.between) + MARGIN)
        SubElement(self.svg, "title").text = visible(f"Tree {record.get('uid')}, step {record.get('global_step')}")

    def left(self, column: int) -> float:
        style = self.style
        return MARGIN if column == 0 else MARGIN + style.root + style.gap + (column - 1) * (style.width + style.gap)

    def top(self, row: float) -> float:
        return self.above + row * (self.style.height + self.style.between)

    def draw(self) -> Element:
        for line, (words, weight) in enumerate(self.heading):
            text(self.svg, MARGIN, MARGIN + 10 + HEADING_LINE * line, words, size=TEXT_SIZE + 1, weight=weight)
        legend.draw(self.svg, self.legend, MARGIN, self.head)
        self._columns()
        for place in self.layout.places.values():
            if place.parent >= 0:
                self._edge(self.layout.places[place.parent], place)
        for place in self.layout.places.values():
            self._root(place) if place.index == ROOT else self._turn(place)
        return self.svg

    def _columns(self) -> None:
        for column in range(1, self.layout.columns):
            text(self.svg, self.left(column), self.above - 7, f"turn {column}", fill=FAINT, size=SMALL)

    def _edge(self, parent: Place, child: Place) -> None:
        style, half = self.style, self.style.height / 2
        start = self.left(parent.column) + (style.root if parent.index == ROOT else style.width)
        x, y = self.left(child.column), self.top(child.row) + half
        from_y, bend = self.top(parent.row) + half, (x - start) / 2
        path = f"M{start:.1f} {from_y:.1f}C{start + bend:.1f} {from_y:.1f} {x - bend:.1f} {y:.1f} {x:.1f} {y:.1f}"
        grown = self.nodes[child.index]["round"] > 0
        dash = {"stroke-dasharray": "4 3"} if grown else {}
        SubElement(self.svg, "path", {"d": path, "fill": "none", "stroke": LINE, "stroke-width": "1.2", **dash})

    def _group(self, place: Place, hint: str) -> Element:
        parent = self.svg
        if self.links and place.index != ROOT:
            parent = SubElement(self.svg, "a", {"href": f"#turn-{place.index}"})
        group = SubElement(parent, "g", {
            "transform": f"translate({self.left(place.column):.1f} {self.top(place.row):.1f})",
            "data-node": str(place.index), "class": "turn",
        })  # fmt: skip
        SubElement(group, "title").text = hint
        return group

    def _root(self, place: Place) -> None:
        style = self.style
        value = self.record.get("root_value")
        group = self._group(place, visible(self.record.get("prompt", "")[:400]))
        box(group, style.root, style.height, "#f8fafc", INK if place.index == self.selected else LINE, 1.2)
        text(group, 9, style.height / 2 - 3, "prompt", weight="600")
        text(group, 9, style.height / 2 + 11, number("V", value), fill=FAINT, size=SMALL)
        self._fold(group, place, style.root)

    def _turn(self, place: Place) -> None:
        node, style = self.nodes[place.index], self.style
        colors = self.scale.shade(node)
        words = self.headlines[place.index]
        answer = self.answers.get(place.index)
        group = self._group(place, words[:400] + (f" \u2192 {answer[:400]}" if answer else ""))
        if place.index == self.selected:
            SubElement(group, "rect", {
                "x": "-3", "y": "-3", "width": str(style.width + 6), "height": str(style.height + 6), "rx": "9",
                "fill": "none", "stroke": SELECTED, "stroke-width": "2.5",
            })  # fmt: skip
        box(group, style.width, style.height, colors.fill, colors.edge, 1.3, dashed=node["round"] > 0)
        SubElement(group, "rect", {"width": "5", "height": str(style.height), "rx": "2.5", "fill": colors.edge})
        inner = SubElement(group, "svg", {"x": "12", "width": str(style.width - 18), "height": str(style.height)})
        self._words(inner, place.index, words)
        self._badges(group, node)
        self._leaf(group, node)
        self._fold(group, place, style.width)

    def _words(self, inner: Element, index: int, words: str) -> None:
        """Write what the turn does, the answer to it where there is room, and those of its numbers that fit."""
        node, style = self.nodes[index], self.style
        answer = self.answers.get(index) if style.lines > 1 else None
        lines = wrap(words, style.characters, style.lines - bool(answer))
        for line, part in enumerate(lines):
            text(inner, 0, 15 + 14 * line, part)
        if answer:
            text(inner, 0, 15 + 14 * len(lines), shorten(f"\u2192 {answer}", style.characters), fill=FAINT)
        measures = [number("A", node.get("advantage"), sign=True), number("V", node.get("value"))]
        if style.width > NARROW:
            measures.append(number("nll", node.get("mean_nll")))
        room = (self._marks(node)[1] - 12) / (EM * SMALL)
        while len("\u2002".join(measures)) > room and len(measures) > 1:
            measures.pop()
        text(inner, 0, style.height - 6, "\u2002".join(measures), fill="#475569", size=SMALL)

    def _marks(self, node: Mapping[str, Any]) -> tuple[list[tuple[str, str, float]], float]:
        """Place the marks of a turn left of the fold mark: words, colour and left edge of each; the leftmost edge."""
        times = self.selections.get(node["index"], 0)
        marks = []
        if equal := self.equal.get(node["index"]):
            marks.append((f"={len(equal) + 1}", FAINT))
        if times or (self.selections and not node.get("is_leaf")):
            marks.append((f"{times}\u00d7" if times > 1 else "◆" if times else "◇", SELECTED if times else LINE))
        right, placed = self.style.width - 10.0, []
        for words, color in reversed(marks):
            right -= badge_width(words)
            placed.append((words, color, right))
            right -= 2
        return placed, right

    def _badges(self, group: Element, node: Mapping[str, Any]) -> None:
        """Draw the marks of a turn in the lower right corner."""
        for words, color, left in self._marks(node)[0]:
            badge(group, left, self.style.height - BADGE - 3, words, color)

    def _leaf(self, group: Element, node: Mapping[str, Any]) -> None:
        if not node.get("is_leaf"):
            return
        style = self.style
        reward = node.get("reward")
        low, high = min(self.rewards, default=0.0), max(self.rewards, default=0.0)
        strength = None if reward is None else 0.0 if low == high else 2 * (reward - low) / (high - low) - 1
        colors = shade(strength, ColorBy.VALUE)
        words = "?" if reward is None else f"{reward:.3g}"
        width = 14 + CHARACTER * len(words)
        pill = SubElement(group, "g", {"transform": f"translate({style.width + 6} {style.height / 2 - 9:.1f})"})
        SubElement(pill, "rect", {
            "width": f"{width:.0f}", "height": "18", "rx": "9", "fill": colors.fill, "stroke": colors.edge,
        })  # fmt: skip
        text(pill, width / 2, 12.5, words, weight="600", anchor="middle")

    def _fold(self, group: Element, place: Place, width: int) -> None:
        if not self.folds:
            return
        if place.hidden:
            mark, words = f"{place.hidden_leaves} ▸", f"unfold {place.hidden} turns, {place.hidden_leaves} leaves"
        elif place.index in self.parents:
            mark, words = "▾", "fold"
        else:
            return
        size = 20 if mark == "▾" else 34
        button = SubElement(group, "g", {
            "data-fold": str(place.index), "class": "fold",
            "transform": f"translate({width - (8 if size == 20 else 0)} {self.style.height / 2 - 8:.1f})",
        })  # fmt: skip
        SubElement(button, "title").text = words
        SubElement(button, "rect", {
            "width": str(size - 4), "height": "16", "rx": "8", "fill": "#ffffff", "stroke": LINE,
        })  # fmt: skip
        text(button, (size - 4) / 2, 11.5, mark, fill=FAINT, size=SMALL, anchor="middle")


def draw_tree(
    record: Mapping[str, Any],
    *,
    folded: Collection[int] = (),
    by: ColorBy = ColorBy.ADVANTAGE,
    selected: int | None = None,
    links: bool = False,
    folds: bool = False,
    heading: bool = False,
) -> Markup:
    """Draw a tree as SVG.

    Args:
        record: the tree.
        folded: nodes whose children are left out.
        by: quantity that colours show.
        selected: node with a ring around it.
        links: turns link to ``#turn-<node>``.
        folds: with the marks that a page folds at.
        heading: with the question and the right answer above.
    """
    return finished(_Picture(record, folded, by, selected, links, folds, heading).draw())
