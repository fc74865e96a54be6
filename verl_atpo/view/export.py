"""A tree as a file: one self-contained HTML page without a script, SVG, or PNG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup

from verl_atpo.view.blocks import heat_block, text_block
from verl_atpo.view.colors import ColorBy, scale_of
from verl_atpo.view.drawing import draw_tree
from verl_atpo.view.layout import ROOT
from verl_atpo.view.row import branch_of
from verl_atpo.view.text import visible, without_template
from verl_atpo.view.timeline import draw_timeline

T = TypeVar("T", bound=Mapping[str, Any])
SUFFIXES = (".html", ".svg", ".png")

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("verl_atpo.view"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def to_html(record: Mapping[str, Any], by: ColorBy = ColorBy.ADVANTAGE) -> str:
    """A page that needs nothing else: the picture, and below it every turn in full, linked from the picture."""
    template = record.get("template") or []
    nodes = [
        {
            **node,
            "observed": text_block(node["observation"], template, whole=True) if node.get("observation") else "",
            "sampled": text_block(node["text"], template, whole=True),
            "heat": heat_block(node, whole=True),
            "shade": scale_of(record, by).shade(node),
            "branch": branch_of(record, node["index"]) if node.get("is_leaf") else {},
        }
        for node in record.get("nodes") or []
    ]
    return _TEMPLATES.get_template("tree.html").render(
        record=record,
        prompt=visible(without_template(record.get("prompt", ""), template)),
        picture=Markup(draw_tree(record, by=by, links=True)),
        timeline=Markup(draw_timeline(record) or ""),
        nodes=nodes,
        root=ROOT,
        visible=visible,
    )


def to_svg(record: Mapping[str, Any], by: ColorBy = ColorBy.ADVANTAGE) -> str:
    """The picture alone."""
    return draw_tree(record, by=by)


def to_png(record: Mapping[str, Any], by: ColorBy = ColorBy.ADVANTAGE, zoom: float = 2.0) -> bytes:
    """The picture alone, ``zoom`` times as large as on the page.

    Raises:
        RuntimeError: the extra ``view`` is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise RuntimeError("A PNG needs the extra `view`: pip install 'verl-atpo[view]'.") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=draw_tree(record, by=by), background="#ffffff", zoom=zoom))


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


def most_telling(trees: Iterable[T]) -> T:
    """The tree whose turns differ most in value from the ones before, the latest of equals.

    Raises:
        ValueError: there are no trees.
    """

    def spread(tree: T) -> float:
        values = {node["index"]: node.get("value") for node in tree["nodes"]}
        steps = [(values[node["index"]], values.get(node["parent"])) for node in tree["nodes"]]
        return sum(abs(value - before) for value, before in steps if value is not None and before is not None)

    return max(trees, key=lambda tree: (spread(tree), tree["global_step"]))
