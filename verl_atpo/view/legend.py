"""What the colours, edges and marks of a tree's picture mean."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from verl_atpo.view.colors import ColorBy, Scale, shade
from verl_atpo.view.svg import FAINT, LINE, PICKED, SMALL, badge, box, text

NAMES = {ColorBy.ADVANTAGE: "advantage A", ColorBy.VALUE: "value V", ColorBy.NLL: "mean NLL, nats/token"}
WIDTH = 940
"""Pixels that a legend takes."""


def draw(parent: Element, scale: Scale, x: float) -> None:
    """What the colours, edges and marks mean."""
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
    badge(parent, at + 4, 13, "◆", PICKED)
    text(parent, at + 16, 16, "picked to be sampled again", fill=FAINT, size=SMALL)
    at += 180
    badge(parent, at + 4, 13, "=2", FAINT)
    text(parent, at + 19, 16, "siblings that say the same", fill=FAINT, size=SMALL)
