"""Tables of how well ways to credit turns point along the exact gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.bias.tasks import KINDS

RESULT = Path(__file__).parents[1] / "results" / "credit_bias.json"
USUAL = "token-mean"
"""Aggregation of the short tables."""
TABLES = 4
"""Random tasks of each kind."""

MEASURED = [
    ("12 chains", "trajectory", "token-mean"),
    ("12 chains", "trajectory", "seq-mean-token-mean"),
    ("12 chains", "trajectory, muted", "token-mean"),
    ("12 chains", "shrunk", "token-mean"),
    ("16 chains", "trajectory", "token-mean"),
    ("6 + 6 by entropy", "trajectory", "token-mean"),
    ("6 + 6 by entropy", "paper", "token-mean"),
    ("6 + 6 by entropy", "local + global", "token-mean"),
    ("6 + 6 by entropy", "local + global", "seq-mean-token-mean"),
    ("6 + 6 by entropy", "one baseline", "token-mean"),
    ("6 + 6 by entropy", "shrunk", "token-mean"),
    ("6 + 6 by chance", "trajectory", "token-mean"),
    ("6 + 6 by chance", "shrunk", "token-mean"),
    ("6 + 6 by noise", "trajectory", "token-mean"),
    ("6 + 6 by noise", "shrunk", "token-mean"),
    ("6 + 6 by noise", "shrunk", "seq-mean-token-mean"),
    ("6 + 6 by noise", "shrunk, by score", "token-mean"),
    ("6 + 6 by noise", "shrunk, muted", "token-mean"),
    ("6 + 6 by noise", "true values", "token-mean"),
    ("8 + 8 by noise", "trajectory", "token-mean"),
    ("8 + 8 by noise", "shrunk", "token-mean"),
]
"""Shape of trees, credit of turns, and how the loss adds up tokens."""


def arm_table() -> str:
    """Write one Markdown table for each share of contexts that repeat."""
    result = json.loads(RESULT.read_text())
    error = max(row["error"] for row in result["rows"])
    tables = [
        f"{result['trees']} trees a cell, seed {result['seed']}; {TABLES} random tasks of each kind. Standard errors "
        f"of cosines are at most {error:.3f}."
    ]
    for repeats in sorted({row["repeats"] for row in result["rows"]}):
        arms: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in result["rows"]:
            if row["repeats"] == repeats:
                arm = row["shape"], row["credit"], row["aggregation"]
                cells = arms.setdefault(arm, {"trees; credit": _title(*arm)})
                cells[f"cosine, {row['kind']}"] = f"{row['cosine']:.3f}"
                cells[f"noise, {row['kind']}"] = f"{row['noise']:.0f}"
        columns = ["trees; credit", *(f"{figure}, {kind}" for figure in ("cosine", "noise") for kind in KINDS)]
        rows = [{column: cells[column] for column in columns} for cells in arms.values()]
        tables.append(f"Contexts repeat by {repeats:.0%}:\n\n{markdown.table(rows)}")
    return "\n\n".join(tables)


def _title(shape: str, credit: str, aggregation: str) -> str:
    return f"{shape}; {credit}" + ("" if aggregation == "token-mean" else f" ({aggregation})")


SHORT = (
    ("preset (6 + 6 by noise, shrunk)", "6 + 6 by noise", "shrunk"),
    ("earlier preset (6 + 6 by entropy, local + global)", "6 + 6 by entropy", "local + global"),
    ("a perfect critic, on the preset's trees", "6 + 6 by noise", "true values"),
)
"""Title, shape and credit of the short table."""


def short() -> str:
    """Make a table of noise relative to 12 chains with GRPO's credit, where contexts never repeat."""
    rows = [row for row in json.loads(RESULT.read_text())["rows"] if not row["repeats"] and row["aggregation"] == USUAL]
    noise = {(row["shape"], row["credit"], row["kind"]): row["noise"] for row in rows}
    return markdown.table(
        [
            {"credit": title}
            | {kind: change(noise[shape, credit, kind], noise["12 chains", "trajectory", kind]) for kind in KINDS}
            for title, shape, credit in SHORT
        ]
    )


def change(value: float, base: float) -> str:
    """Format a change in per cent."""
    text = f"{100 * (value / base - 1):+.0f} %"
    return "0 %" if text in ("+0 %", "-0 %") else text


def worst() -> str:
    """The cell in which shrunk baselines are furthest below trajectory credit on the same trees."""
    rows = [row for row in json.loads(RESULT.read_text())["rows"] if row["credit"] == "shrunk"]
    rows = [row for row in rows if row.get("over_error") and row["aggregation"] == "token-mean"]
    worst = min(rows, key=lambda row: row["over_trajectory"] / row["over_error"])
    return (
        f"Shrunk baselines minus trajectory credit on the same trees, {len(rows)} cells. The worst difference of "
        f"cosines, in its standard errors,\nis {worst['over_trajectory']:+.4f} ± {worst['over_error']:.4f} "
        f"({worst['shape']}, {worst['kind']}, contexts repeat by {worst['repeats']:.0%})."
    )
