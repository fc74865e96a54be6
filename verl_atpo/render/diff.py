"""Differences of two texts, word by word, or line by line where they are long."""

from __future__ import annotations

import dataclasses
import difflib
import re

MOST_WORDS = 3000
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Change:
    """A stretch of both texts.

    Attributes:
        left: words of the first text.
        right: words of the second.
    """

    left: str
    right: str

    @property
    def equal(self) -> bool:
        """True if the texts agree here."""
        return self.left == self.right


def compare(one: str, other: str) -> list[Change]:
    """Split two texts into stretches, in order; joined they are the texts again."""
    left, right = _WORDS.findall(one), _WORDS.findall(other)
    if max(len(left), len(right)) > MOST_WORDS:
        left, right = one.splitlines(keepends=True), other.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    return [
        Change("".join(left[from_left:to_left]), "".join(right[from_right:to_right]))
        for _, from_left, to_left, from_right, to_right in matcher.get_opcodes()
    ]
