"""Markdown tables that fit a page: at most seven columns, one value a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDEST = 7


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows by column title, as a GitHub table without padding; empty without rows.

    Raises:
        ValueError: more than seven columns.
    """
    if rows and len(rows[0]) > WIDEST:
        raise ValueError(f"{len(rows[0])} columns {list(rows[0])}: expected at most {WIDEST}. Split the table.")
    titles = list(rows[0]) if rows else []
    lines = [titles, ["---"] * len(titles), *([row.get(title, "") for title in titles] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines if cells)
