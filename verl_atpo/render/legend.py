"""The legend of a tree's picture: its colours, edges and marks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element, SubElement

from verl_atpo.render.colors import ColorBy, Scale, shade
from verl_atpo.render.svg import EM, FAINT, LINE, SELECTED, SMALL, badge, badge_width, box, text

NAMES = {ColorBy.ADVANTAGE: "advantage A", ColorBy.VALUE: "value V", ColorBy.NLL: "mean NLL, nats/token"}
LINE_HEIGHT = 20
BETWEEN = 22
"""Pixels between two entries."""
STEP = 12
"""Pixels of a step of the colour scale."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of the legend.

    Attributes:
        words: that explain the mark.
        mark: width of what is explained, in pixels.
        draw: function that draws the mark from a place on.
    """

    words: str
    mark: float
    draw: Callable[[Element, float, float], object]

    @property
    def width(self) -> float:
        """Pixels of the mark and its words."""
        return self.mark + 5 + EM * SMALL * len(self.words)


def entries(scale: Scale) -> list[Entry]:
    """List the entries in order."""
    steps = [step / 4 for step in range(-4, 5) if scale.by is not ColorBy.NLL or step >= 0]
    low = scale.middle if scale.by is ColorBy.NLL else scale.low

    def colors(parent: Element, x: float, y: float) -> None:
        for number, step in enumerate(steps):
            SubElement(parent, "rect", {
                "x": f"{x + STEP * number:.0f}", "y": f"{y:.0f}", "width": str(STEP), "height": "12",
                "fill": shade(step, scale.by).fill, "stroke": shade(step, scale.by).edge, "stroke-width": "0.8",
            })  # fmt: skip

    def edge(dashed: bool) -> Callable[[Element, float, float], object]:
        def drawn(parent: Element, x: float, y: float) -> None:
            place = SubElement(parent, "g", {"transform": f"translate({x:.0f} {y:.0f})"})
            box(place, 18, 12, "#ffffff", LINE, 1.3, dashed=dashed)

        return drawn

    def mark(words: str, color: str) -> Callable[[Element, float, float], object]:
        return lambda parent, x, y: badge(parent, x, y - 1, words, color)

    return [
        Entry(f"{NAMES[scale.by]}, {low:.2f} to {scale.high:.2f}", STEP * len(steps), colors),
        Entry("initial chain", 18, edge(False)),
        Entry("grown by expansion", 18, edge(True)),
        Entry("selected for re-sampling", badge_width("◆"), mark("◆", SELECTED)),
        Entry("candidate, not selected", badge_width("◇"), mark("◇", LINE)),
        Entry("equal turns in one context", badge_width("=2"), mark("=2", FAINT)),
    ]


def lines(scale: Scale, width: float) -> list[list[Entry]]:
    """Break the entries into lines of at most ``width`` pixels."""
    found: list[list[Entry]] = [[]]
    for entry in entries(scale):
        if found[-1] and _width([*found[-1], entry]) > width:
            found.append([])
        found[-1].append(entry)
    return found


def _width(line: Sequence[Entry]) -> float:
    return sum(entry.width for entry in line) + BETWEEN * (len(line) - 1)


def draw(parent: Element, legend: Sequence[Sequence[Entry]], left: float, top: float) -> None:
    """Draw the lines of a legend from (left, top) on."""
    for number, line in enumerate(legend):
        x, y = left, top + LINE_HEIGHT * number
        for entry in line:
            entry.draw(parent, x, y)
            text(parent, x + entry.mark + 5, y + 10, entry.words, fill=FAINT, size=SMALL)
            x += entry.width + BETWEEN
