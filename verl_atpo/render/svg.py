"""Pieces of SVG pictures, built with ElementTree so that no text can become markup."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from verl_atpo.render.text import decimal, signed, visible

FONT = "Inter, Roboto, 'Segoe UI', 'DejaVu Sans', sans-serif"
EM = 0.6
"""Width of a column of text over its size, an upper bound for most texts: longer text is clipped."""
TEXT_SIZE, SMALL = 11.5, 11
CHARACTER = EM * TEXT_SIZE
"""Width of a column of text at :data:`TEXT_SIZE`."""
BADGE = 15
"""Height of a badge in pixels."""
INK, FAINT, LINE, SELECTED = "#0f172a", "#64748b", "#94a3b8", "#2563eb"


def picture(width: float, height: float) -> Element:
    """Begin a picture of that size in pixels."""
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg", "width": f"{width:g}", "height": f"{height:g}",
        "viewBox": f"0 0 {width:g} {height:g}", "font-family": FONT, "font-size": str(TEXT_SIZE), "role": "img",
    }  # fmt: skip
    return Element("svg", attributes)


def number(name: str, value: float | None, sign: bool = False) -> str:
    """Write ``name value``, with a dash for what is not known."""
    if value is None:
        return f"{name} \u2013"
    return f"{name} {signed(value) if sign else decimal(value)}"


def finished(svg: Element) -> Markup:
    """Write a picture as markup; ElementTree escapes every text and attribute."""
    return Markup(tostring(svg, encoding="unicode"))


def box(parent: Element, width: float, height: float, fill: str, edge: str, thick: float, dashed: bool = False) -> None:
    """Draw a rounded box from the parent's origin on."""
    attributes = {"width": f"{width}", "height": f"{height}", "rx": "6", "fill": fill, "stroke": edge}
    dash = {"stroke-dasharray": "4 3"} if dashed else {}
    SubElement(parent, "rect", {**attributes, "stroke-width": str(thick), **dash})


def badge(parent: Element, x: float, y: float, words: str, color: str) -> float:
    """Draw a badge with its upper left corner at (x, y); returns its width."""
    width = badge_width(words)
    group = SubElement(parent, "g", {"transform": f"translate({x:.1f} {y:.1f})", "class": "badge-mark"})
    SubElement(group, "rect", {"width": str(width), "height": str(BADGE), "rx": "7.5", "fill": color})
    text(group, width / 2, 11.5, words, fill="#ffffff", size=SMALL, anchor="middle")
    return width


def badge_width(words: str) -> float:
    """Width of a badge in pixels."""
    return BADGE if len(words) < 2 else 10 + EM * SMALL * len(words)


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
    """Write one line of text, made visible; its baseline starts at (x, y)."""
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "fill": fill, "font-size": str(size)}
    if weight != "400":
        attributes["font-weight"] = weight
    if anchor != "start":
        attributes["text-anchor"] = anchor
    SubElement(parent, "text", attributes).text = visible(words)
