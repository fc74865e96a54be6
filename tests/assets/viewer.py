"""A running viewer, for tests that look at it."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass
class Viewer:
    """A running viewer.

    Attributes:
        address: of its first page, without the slash at the end.
        folder: that it shows.
    """

    address: str
    folder: Path
