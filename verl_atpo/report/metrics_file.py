"""Reader of the files of verl's logger ``file``: a JSON line per step, ``{"step": .., "data": {metric: value}}``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Steps = list[tuple[int, dict[str, Any]]]
"""Steps and their metrics, in order."""

_MEAN = re.compile(r"val-(?:core|aux)/(?P<source>.+)/(?P<name>[^/]+)/mean@\d+")


def read_steps(*files: Path) -> Steps:
    """Read steps and their metrics, in order.

    Args:
        *files: files of a run's starts, in order. Of a step that two starts logged, the later one counts.
            A file that is not there yet has no steps, and a line that is still being written is left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    for file in filter(Path.exists, files):
        for record in map(json.loads, file.read_text(encoding="utf-8").split("\n")[:-1]):
            steps[record["step"]] = {**steps.get(record["step"], {}), **record["data"]}
    return sorted(steps.items())


def find_metrics(folder: Path, depth: int = 3) -> list[Path]:
    """Find the files of verl's logger in a run's folder or below, one for each start, by their first line."""
    found = []
    for below in range(depth):
        for path in sorted(folder.glob("*/" * below + "*.jsonl")):
            if not path.name.startswith("trees-"):
                with path.open("rb") as file:
                    found += [path] if _is_step(file.readline(1 << 20)) else []
    return found


def _is_step(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and isinstance(entry.get("step"), int) and isinstance(entry.get("data"), dict)


def validation_means(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Read data source -> metric -> mean over its questions from a step's metrics; empty without a validation."""
    means: dict[str, dict[str, float]] = {}
    for key, value in data.items():
        if found := _MEAN.fullmatch(key):
            means.setdefault(found["source"], {})[found["name"]] = float(value)
    return means


def accuracies(data: Mapping[str, Any]) -> dict[str, float]:
    """Read validation accuracy (``acc``) by data source from a step's metrics; empty without a validation."""
    return {source: means["acc"] for source, means in validation_means(data).items() if "acc" in means}


def mean_accuracy(data: Mapping[str, Any]) -> float | None:
    """Average :func:`accuracies` over data sources; ``None`` without a validation."""
    found = accuracies(data)
    return sum(found.values()) / len(found) if found else None
