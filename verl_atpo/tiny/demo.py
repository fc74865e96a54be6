"""Demonstrations: conversations to imitate, with a mask of the demonstrator's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Demo:
    """One conversation.

    Attributes:
        ids: token ids, the prompt first.
        sampled: True for the tokens of the demonstrator's turns; same length as `ids`.
    """

    ids: tuple[int, ...]
    sampled: tuple[bool, ...]


@dataclass
class Transcript:
    """A conversation in progress."""

    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)

    def read(self, ids: Sequence[int]) -> None:
        """Append tokens that the demonstrator is given: the prompt or an observation."""
        self._add(ids, False)

    def write(self, ids: Sequence[int]) -> None:
        """Append a turn of the demonstrator, its end token included."""
        self._add(ids, True)

    def demo(self) -> Demo:
        """Return the conversation so far."""
        return Demo(tuple(self.ids), tuple(self.sampled))

    def _add(self, ids: Sequence[int], sampled: bool) -> None:
        self.ids += ids
        self.sampled += [sampled] * len(ids)
