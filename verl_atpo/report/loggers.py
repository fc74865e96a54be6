"""Trees in the loggers people have: HTML and a table for wandb, a picture and text for TensorBoard.

One setting turns it on: ``algorithm.atpo.log_trees``, the number of trees a step.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from verl_atpo.render.text import headline, visible, without_template
from verl_atpo.report.record import Record

logger = logging.getLogger(__name__)

TAG = "atpo/tree"
TABLE = ("step", "uid", "outcome", "reward", "leaves", "depth", "sampled_tokens", "tool_errors", "regrown", "seconds")


def log_trees(backends: Mapping[str, Any], records: Sequence[Record], step: int, most: int) -> None:
    """Show up to ``most`` trees, the most informative first, in every backend that can show one.

    A backend that fails is logged: trees in a logger are no reason to end a training run.

    Args:
        backends: verl's loggers by name: ``tensorboard`` with its ``writer``, ``wandb`` the module.
        records: records of the trees.
        step: training step.
        most: maximum number of trees.
    """
    chosen = sorted(records, key=_informative, reverse=True)[:most]
    shown = {"tensorboard": _tensorboard, "wandb": _wandb}
    for name, backend in backends.items():
        if name in shown and chosen:
            try:
                shown[name](backend, chosen, step)
            except Exception:
                logger.exception("Trees of step %d cannot be shown in %s; training continues", step, name)


def _informative(record: Record) -> tuple[bool, float]:
    values = [value for node in record["nodes"] if (value := node.get("value")) is not None]
    return record["summary"]["outcome"] == "mixed", max(values, default=0.0) - min(values, default=0.0)


def _tensorboard(backend: Any, records: Sequence[Record], step: int) -> None:
    import numpy as np
    from PIL import Image

    from verl_atpo.render.export import to_png

    for number, record in enumerate(records):
        with Image.open(io.BytesIO(to_png(record, zoom=1.0))) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        backend.writer.add_image(f"{TAG}/{number}", pixels, step, dataformats="HWC")
        backend.writer.add_text(f"{TAG}/{number}", as_code(outline(record)), step)
    backend.writer.flush()


def _wandb(backend: Any, records: Sequence[Record], step: int) -> None:
    from verl_atpo.render.export import to_html

    pages = {f"{TAG}/{number}": backend.Html(to_html(record), inject=False) for number, record in enumerate(records)}
    rows = [[record["summary"].get(name) for name in TABLE] + [outline(record)] for record in records]
    table = backend.Table(columns=[*TABLE, "tree"], data=rows)
    backend.log({**pages, "atpo/trees_shown": table}, step=step)


def outline(record: Record) -> str:
    """Write a tree as plain text: a line per turn, indented by its depth."""
    template = record.get("template") or []
    children: dict[int, list[Any]] = {}
    for node in record["nodes"]:
        children.setdefault(node["parent"], []).append(node)
    lines = [
        visible(without_template(record.get("prompt", ""), template)),
        f"right answer: {record.get('ground_truth')}",
    ]
    waiting = [(node, 0) for node in reversed(children.get(0, []))]
    while waiting:
        node, depth = waiting.pop()
        numbers = "  ".join(
            f"{name} {value:+.2f}"
            for name, value in (("A", node.get("advantage")), ("V", node.get("value")), ("reward", node.get("reward")))
            if value is not None
        )
        lines.append("  " * depth + f"- {headline(without_template(node['text'], template))[:200]}  [{numbers}]")
        waiting += [(child, depth + 1) for child in reversed(children.get(node["index"], []))]
    return "\n".join(lines)


def as_code(text: str) -> str:
    """Write ``text`` as a code block of Markdown, in which nothing is markup."""
    return "\n".join(f"    {line}" for line in visible(text).splitlines())
