"""Interface of an index, as the server uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Hit = tuple[int, float]
"""Number of a passage in the corpus, counted from 0, and its score (higher is better)."""


class PassageIndex(Protocol):
    """Search index over passages; ``search`` may be called from several threads."""

    @property
    def method(self) -> str:
        """``bm25`` or ``dense``."""

    @property
    def model(self) -> str | None:
        """Name of the embedding model, if there is one."""

    def check(self) -> None:
        """Raise ``DamagedError`` if a file of the index has changed during use."""

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        """Return at most ``topk`` hits for each query, best first."""
