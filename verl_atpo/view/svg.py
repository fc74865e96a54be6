"""Pieces of SVG pictures, built with ElementTree so that no text can become markup."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from verl_atpo.view.text import visible

FONT = "Inter, Roboto, 'Segoe UI', 'DejaVu Sans', sans-serif"
CHARACTER = 6.5
"""Width of a column of text at :data:`TEXT_SIZE`, generous: what does not fit is clipped."""
TEXT_SIZE, SMALL = 11, 9.5
INK, FAINT, LINE, PICKED = "#0f172a", "#64748b", "#94a3b8", "#2563eb"


def picture(width: float, height: float) -> Element:
    """An empty picture of that size in pixels."""
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg", "width": f"{width:g}", "height": f"{height:g}",
        "viewBox": f"0 0 {width:g} {height:g}", "font-family": FONT, "font-size": str(TEXT_SIZE), "role": "img",
    }  # fmt: skip
    return Element("svg", attributes)


def number(name: str, value: float | None, sign: bool = False) -> str:
    """``name value``, with a dash for what is not known."""
    return f"{name} \u2013" if value is None else f"{name} {value:+.2f}" if sign else f"{name} {value:.2f}"


def box(parent: Element, width: float, height: float, fill: str, edge: str, thick: float, dashed: bool = False) -> None:
    attributes = {"width": f"{width}", "height": f"{height}", "rx": "6", "fill": fill, "stroke": edge}
    dash = {"stroke-dasharray": "4 3"} if dashed else {}
    SubElement(parent, "rect", {**attributes, "stroke-width": str(thick), **dash})


def badge(parent: Element, x: float, y: float, words: str, color: str) -> None:
    width = 16 if len(words) < 2 else 22
    group = SubElement(parent, "g", {"transform": f"translate({x - width / 2} {y - 7})"})
    SubElement(group, "rect", {"width": str(width), "height": "14", "rx": "7", "fill": color})
    text(group, width / 2, 10.5, words, fill="#ffffff", size=SMALL, anchor="middle")


def text(
    parent: Element,
    x: float,
    y: float,
    words: str,
    *,
    fill: str = INK,
    size: float = TEXT_SIZE,
    weight: str = "400",
    anchor: str = "start",
) -> None:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "fill": fill, "font-size": str(size)}
    if weight != "400":
        attributes["font-weight"] = weight
    if anchor != "start":
        attributes["text-anchor"] = anchor
    SubElement(parent, "text", attributes).text = visible(words)
