"""Versions that this package was run with."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path
from typing import Any


@functools.cache
def tested_versions() -> dict[str, Any]:
    """Read ``tested_versions.json``: Python, verl (seams, and complete training runs) and other packages."""
    content: dict[str, Any] = json.loads((Path(__file__).parents[1] / "tested_versions.json").read_text())
    return content


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
