"""The thumbnail of a tree: a dot per turn, coloured by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import SubElement

from markupsafe import Markup

from verl_atpo.render.colors import ColorBy, Scale, shade
from verl_atpo.render.layout import Place, lay_out
from verl_atpo.render.svg import finished, picture


def draw_thumbnail(record: Mapping[str, Any], width: int = 180, height: int = 90) -> Markup:
    """Draw a tree as SVG without text: a dot per turn, coloured by value."""
    nodes = {node["index"]: node for node in record.get("nodes") or []}
    layout = lay_out(list(nodes.values()))
    scale = Scale(ColorBy.VALUE, 0.0, 0.5, 1.0)
    rewards = [node["reward"] for node in nodes.values() if node.get("reward") is not None]
    if rewards and (min(rewards) < 0 or max(rewards) > 1):
        scale = Scale(ColorBy.VALUE, min(rewards), (min(rewards) + max(rewards)) / 2, max(rewards))
    svg = picture(width, height)

    def at(place: Place) -> tuple[float, float]:
        x = 6 + place.column * (width - 12) / max(layout.columns - 1, 1)
        return x, 6 + place.row * (height - 12) / max(layout.rows - 1, 1)

    for place in layout.places.values():
        if place.parent >= 0:
            (x, y), (from_x, from_y) = at(place), at(layout.places[place.parent])
            SubElement(svg, "line", {
                "x1": f"{from_x:.1f}", "y1": f"{from_y:.1f}", "x2": f"{x:.1f}", "y2": f"{y:.1f}", "stroke": "#cbd5e1",
            })  # fmt: skip
    for place in layout.places.values():
        x, y = at(place)
        colors = scale.shade(nodes[place.index]) if place.index else shade(None, ColorBy.VALUE)
        SubElement(svg, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "3.2", "fill": colors.edge})
    return finished(svg)
