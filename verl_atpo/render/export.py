"""Files of a tree: one self-contained HTML page without a script, SVG, or PNG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from verl_atpo.render.colors import ColorBy, scale_of
from verl_atpo.render.comparison import contexts
from verl_atpo.render.explanation import explain, prompt_value
from verl_atpo.render.layout import ROOT
from verl_atpo.render.markup import heat_block, text_block
from verl_atpo.render.picture import draw_tree
from verl_atpo.render.text import decimal, signed, visible, without_template
from verl_atpo.render.timeline import draw_timeline
from verl_atpo.render.trajectory import trajectory_of

T = TypeVar("T", bound=Mapping[str, Any])
SUFFIXES = (".html", ".svg", ".png")
INSTALL = "install the viewer as docs/viewer.md says, or `pip install resvg-py`"

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("verl_atpo.render"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def to_html(record: Mapping[str, Any], by: ColorBy = ColorBy.ADVANTAGE) -> str:
    """Write a page that needs nothing else: the picture, and below it every turn in full, linked from the picture."""
    template, numbers = record.get("template") or [], contexts(record.get("nodes") or [])
    scale = scale_of(record, by)
    nodes = [
        {
            **node,
            "explained": explain(record, node, numbers),
            "observed": text_block(node["observation"], template, whole=True) if node.get("observation") else "",
            "sampled": text_block(node["text"], template, whole=True),
            "heat": heat_block(node, whole=True),
            "shade": scale.shade(node),
            "trajectory": trajectory_of(record, node["index"]) if node.get("is_leaf") else {},
        }
        for node in record.get("nodes") or []
    ]
    return _TEMPLATES.get_template("tree.html").render(
        record=record,
        signed=signed,
        decimal=decimal,
        prompt=visible(without_template(record.get("prompt", ""), template)),
        prompt_value=prompt_value(record),
        picture=draw_tree(record, by=by, links=True),
        timeline=draw_timeline(record) or "",
        nodes=nodes,
        root=ROOT,
        visible=visible,
    )


def to_svg(record: Mapping[str, Any], by: ColorBy = ColorBy.ADVANTAGE) -> str:
    """Write the picture with the question and the right answer above."""
    return draw_tree(record, by=by, heading=True)


def to_png(record: Mapping[str, Any], by: ColorBy = ColorBy.ADVANTAGE, zoom: float = 2.0) -> bytes:
    """Draw the picture alone, ``zoom`` times as large as on the page.

    Raises:
        RuntimeError: resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise RuntimeError(f"A PNG needs resvg-py: {INSTALL}.") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=to_svg(record, by), background="#ffffff", zoom=zoom))


def write(record: Mapping[str, Any], path: Path, by: ColorBy = ColorBy.ADVANTAGE) -> None:
    """Write a tree to ``path``, in the form that its suffix names.

    Raises:
        ValueError: another suffix than those of :data:`SUFFIXES`.
    """
    match path.suffix:
        case ".html":
            path.write_text(to_html(record, by), encoding="utf-8")
        case ".svg":
            path.write_text(to_svg(record, by), encoding="utf-8")
        case ".png":
            path.write_bytes(to_png(record, by))
        case other:
            raise ValueError(f"{path} ends in {other!r}: expected one of {', '.join(SUFFIXES)}.")


def most_informative(trees: Iterable[T]) -> T:
    """Choose the tree whose turns differ most in value from the ones before, the latest of equals.

    Raises:
        ValueError: there are no trees.
    """

    def spread(tree: T) -> float:
        values = {node["index"]: node.get("value") for node in tree["nodes"]}
        steps = [(values[node["index"]], values.get(node["parent"])) for node in tree["nodes"]]
        return sum(abs(value - before) for value, before in steps if value is not None and before is not None)

    return max(trees, key=lambda tree: (spread(tree), tree["global_step"]))
