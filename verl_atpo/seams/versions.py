"""The versions that this package was run with, and where they are written down."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path
from typing import Any


@functools.cache
def tested_versions() -> dict[str, Any]:
    """``tested_versions.json``: of Python, of verl (its seams, and whole training runs), and of what runs beside it."""
    content: dict[str, Any] = json.loads((Path(__file__).parents[1] / "tested_versions.json").read_text())
    return content


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution; None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
