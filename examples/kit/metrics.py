"""Reading what verl's logger ``file`` wrote: a JSON line per logged step, ``{"step": .., "data": {metric: value}}``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_ACCURACY = re.compile(r"val-core/(?P<source>[^/]+)/acc/mean@\d+")


def read_steps(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Steps and their metrics, in order; a line that is still being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [(record["step"], record["data"]) for record in map(json.loads, lines)]


def accuracies(data: dict[str, Any]) -> dict[str, float]:
    """Validation accuracy by data source, of one step's metrics; empty if it was no validation step."""
    return {match["source"]: value for key, value in data.items() if (match := _ACCURACY.fullmatch(key))}


def mean_accuracy(data: dict[str, Any]) -> float | None:
    """Mean of :func:`accuracies` over data sources; ``None`` if it was no validation step."""
    found = accuracies(data)
    return sum(found.values()) / len(found) if found else None
