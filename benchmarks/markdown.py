"""Markdown tables that fit a page: at most seven columns, one value a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

WIDEST = 7


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows by column title, as a GitHub table.

    Raises:
        ValueError: more than seven columns.
    """
    if rows and len(rows[0]) > WIDEST:
        raise ValueError(f"{len(rows[0])} columns {list(rows[0])}: expected at most {WIDEST}. Split the table.")
    return tabulate([dict(row) for row in rows], headers="keys", tablefmt="github", disable_numparse=True)
