"""Distinct problems of several kinds, as many of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


class Problem(Protocol):
    """Object with a text that identifies it."""

    @property
    def text(self) -> str: ...


T = TypeVar("T", bound=Problem)


def sample_distinct(draw: Callable[[int], T], kinds: Iterable[int], per_kind: int, rng: random.Random) -> list[T]:
    """Draws `per_kind` problems of every kind, no text twice, and shuffles them.

    Args:
        draw: makes one of a kind.
        kinds: for instance numbers of hops.
        per_kind: of each; there have to be so many.
        rng: for the order.
    """
    found: dict[str, T] = {}
    for kind in kinds:
        wanted = len(found) + per_kind
        while len(found) < wanted:
            problem = draw(kind)
            found.setdefault(problem.text, problem)
    result = list(found.values())
    rng.shuffle(result)
    return result
