"""The time line of a tree: a bar per trajectory, with generation, tools and waiting in their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import SubElement

from markupsafe import Markup

from verl_atpo.render.svg import FAINT, LINE, SELECTED, SMALL, finished, picture, text
from verl_atpo.render.trajectory import path_to

COLORS = {"generation": "#0d9488", "tool": "#f59e0b", "waiting": "#e2e8f0"}
LEFT, ROW, TOP = 150, 20, 44


def spans(record: Mapping[str, Any], trajectory: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """List what a trajectory did and when: ``(kind, from, to)`` in seconds from the tree's start; the rest is waiting.

    Only turns that it sampled itself took time; replayed ones cost nothing.
    """
    start, end = trajectory["started_s"], trajectory["ended_s"]
    nodes = {node["index"]: node for node in record["nodes"]}
    path = path_to(record, trajectory["leaf"]) if trajectory.get("leaf") is not None else []
    own = path[len(path) - trajectory.get("own_turns", len(path)) :]
    found, at = [], start
    for index in own:
        for kind, key in (("generation", "generation_s"), ("tool", "tool_s")):
            seconds = nodes[index].get(key) or 0.0
            if seconds and at < end:
                found.append((kind, at, min(at + seconds, end)))
                at += seconds
    if at < end:
        found.append(("waiting", at, end))
    return found


def draw_timeline(record: Mapping[str, Any], width: int = 1000) -> Markup | None:
    """Draw the time line as SVG; ``None``: the dump does not say when trajectories ran."""
    trajectories = [
        trajectory for trajectory in record.get("trajectories") or [] if trajectory.get("ended_s") is not None
    ]
    if not trajectories:
        return None
    last = max(trajectory["ended_s"] for trajectory in trajectories) or 1.0
    svg = picture(width, TOP + ROW * len(trajectories) + 10)
    scale = (width - LEFT - 60) / last
    for position, (kind, color) in enumerate(COLORS.items()):
        SubElement(
            svg, "rect", {"x": str(LEFT + 100 * position), "y": "6", "width": "12", "height": "12", "fill": color}
        )
        text(svg, LEFT + 100 * position + 17, 16, kind, fill=FAINT, size=SMALL)
    for tick in range(6):
        x = LEFT + scale * last * tick / 5
        SubElement(svg, "line", {
            "x1": f"{x:.1f}", "x2": f"{x:.1f}", "y1": str(TOP - 8), "y2": str(TOP + ROW * len(trajectories)),
            "stroke": "#e2e8f0",
        })  # fmt: skip
        text(svg, x, TOP - 12, f"{last * tick / 5:.1f} s", fill=FAINT, size=SMALL, anchor="middle")
    for row, trajectory in enumerate(trajectories):
        y = TOP + ROW * row
        words = f"trajectory {trajectory['number']}" + (
            f", round {trajectory['round']}" if trajectory.get("round") else ""
        )
        text(svg, 8, y + 12, words + (", diverged" if trajectory.get("diverged") else ""), size=SMALL)
        for kind, start, end in spans(record, trajectory):
            SubElement(svg, "rect", {
                "x": f"{LEFT + scale * start:.1f}", "y": str(y + 2), "width": f"{max(scale * (end - start), 0.5):.1f}",
                "height": str(ROW - 6), "fill": COLORS[kind],
            })  # fmt: skip
        SubElement(svg, "rect", {
            "x": f"{LEFT + scale * trajectory['started_s']:.1f}", "y": str(y + 2), "fill": "none", "stroke": LINE,
            "width": f"{max(scale * (trajectory['ended_s'] - trajectory['started_s']), 1):.1f}", "height": str(ROW - 6),
            "stroke-width": "0.6",
        })  # fmt: skip
        if trajectory.get("failures"):
            x = LEFT + scale * trajectory["started_s"] - 5
            text(
                svg, x, y + 12, f"grown again {len(trajectory['failures'])}\u00d7", fill=SELECTED, size=8, anchor="end"
            )
    return finished(svg)
