"""The legend of a tree's picture: its colours, edges and marks."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from verl_atpo.render.colors import ColorBy, Scale, shade
from verl_atpo.render.svg import FAINT, LINE, SELECTED, SMALL, badge, box, text

NAMES = {ColorBy.ADVANTAGE: "advantage A", ColorBy.VALUE: "value V", ColorBy.NLL: "mean NLL, nats/token"}
WIDTH = 1060
"""Pixels that a legend takes."""


def draw(parent: Element, scale: Scale, x: float) -> None:
    """Draw the legend from ``x`` on."""
    text(parent, x, 16, f"colour: {NAMES[scale.by]}", fill=FAINT, size=SMALL)
    at = x + 132
    for step in range(-4, 5):
        if scale.by is ColorBy.NLL and step < 0:
            continue
        SubElement(parent, "rect", {
            "x": f"{at:.0f}", "y": "7", "width": "12", "height": "12", "fill": shade(step / 4, scale.by).fill,
            "stroke": shade(step / 4, scale.by).edge, "stroke-width": "0.8",
        })  # fmt: skip
        at += 12
    low = scale.middle if scale.by is ColorBy.NLL else scale.low
    text(parent, at + 8, 16, f"{low:.2f} … {scale.high:.2f}", fill=FAINT, size=SMALL)
    at += 100
    for dashed, words in ((False, "initial chain"), (True, "grown by expansion")):
        box(SubElement(parent, "g", {"transform": f"translate({at} 7)"}), 18, 12, "#ffffff", LINE, 1.3, dashed=dashed)
        text(parent, at + 23, 16, words, fill=FAINT, size=SMALL)
        at += 104 if not dashed else 132
    for words, color, meaning, width in (
        ("◆", SELECTED, "selected for re-sampling", 150),
        ("◇", LINE, "candidate, not selected", 145),
        ("=2", FAINT, "equal turns in one context", 0),
    ):
        taken = badge(parent, at, 6, words, color)
        text(parent, at + taken + 5, 16, meaning, fill=FAINT, size=SMALL)
        at += width
