"""Colours of turns, safe for the colour-blind: teal is good, orange is bad, violet is unsure."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

GOOD, BAD, UNSURE, NEUTRAL = (13, 148, 136), (217, 72, 15), (109, 40, 217), (148, 163, 184)
WHITE = (255, 255, 255)
Rgb = tuple[int, int, int]
INVISIBLE = 0.005
"""Largest distance from the middle that two decimals hide."""


class ColorBy(str, enum.Enum):
    """Number that a turn's colour shows."""

    ADVANTAGE = "advantage"
    VALUE = "value"
    NLL = "nll"


@dataclasses.dataclass(frozen=True)
class Shade:
    """Colours of one turn: ``fill`` under its text, ``edge`` around it, as ``#rrggbb``."""

    fill: str
    edge: str


@dataclasses.dataclass(frozen=True)
class Scale:
    """Map from a turn's number to its colour.

    Attributes:
        by: the number that is shown.
        low: number of the lowest colour.
        middle: number that stays white; so does what is shown like it, with two decimals.
        high: number of the highest colour.
    """

    by: ColorBy
    low: float
    middle: float
    high: float

    def strength(self, number: float | None) -> float | None:
        """Scale a number: -1 for ``low`` or below, 0 for ``middle``, 1 for ``high`` or above."""
        if number is None:
            return None
        if abs(number - self.middle) < INVISIBLE:
            return 0.0
        side = self.high - self.middle if number >= self.middle else self.middle - self.low
        return max(-1.0, min(1.0, (number - self.middle) / side)) if side > 0 else 0.0

    def shade(self, node: Mapping[str, Any]) -> Shade:
        """Choose the colours of a turn; grey where the number is not known."""
        return shade(self.strength(number_of(node, self.by)), self.by)


def number_of(node: Mapping[str, Any], by: ColorBy) -> float | None:
    """Read the number of a turn that ``by`` shows."""
    return node.get("mean_nll" if by is ColorBy.NLL else by.value)


def scale_of(record: Mapping[str, Any], by: ColorBy) -> Scale:
    """Make the scale of one tree: advantages around 0, values around the prompt's, NLLs from 0."""
    nodes: Sequence[Mapping[str, Any]] = record.get("nodes") or []
    numbers = [number for node in nodes if (number := number_of(node, by)) is not None] or [0.0]
    if by is ColorBy.NLL:
        return Scale(by, 0.0, 0.0, max(max(numbers), 0.1))
    if by is ColorBy.VALUE:
        middle = record.get("root_value")
        middle = sum(numbers) / len(numbers) if middle is None else middle
        return Scale(by, min(numbers), middle, max(numbers))
    reach = max(1.0, *(abs(number) for number in numbers))
    return Scale(by, -reach, 0.0, reach)


def shade(strength: float | None, by: ColorBy) -> Shade:
    """Choose the colours of a strength from -1 to 1."""
    if strength is None:
        return Shade("#f1f5f9", _hex(NEUTRAL))
    color = UNSURE if by is ColorBy.NLL else GOOD if strength >= 0 else BAD
    amount = abs(strength)
    return Shade(_hex(_mix(WHITE, color, 0.06 + 0.34 * amount)), _hex(_mix(NEUTRAL, color, min(1.0, 0.15 + amount))))


def heat(nats: float) -> str:
    """Choose the background of a token by its NLL: white at 0, full violet at 3 nats and above."""
    return _hex(_mix(WHITE, UNSURE, 0.65 * min(1.0, max(0.0, nats) / 3.0)))


def _mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _hex(color: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
