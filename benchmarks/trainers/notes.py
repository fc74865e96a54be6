"""Notes of a run: a JSON line per generation, and when the engine is put to sleep and woken."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

NOTES_ENV = "TRAINERS_NOTES"
"""Names the file."""
GENERATION, ASLEEP, AWAKE = "generation", "asleep", "awake"
Span = tuple[float, float]


def note(kind: str, begin: float, end: float | None = None) -> None:
    """Append a line; times are seconds since the epoch."""
    line = {"kind": kind, "begin": begin, "end": time.time() if end is None else end}
    with Path(os.environ[NOTES_ENV]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def shares(notes: Iterable[dict[str, float | str]]) -> dict[str, float]:
    """Measure the engine's use of time from the end of the first step to that of the last.

    Args:
        notes: of :func:`note`. The engine sleeps from ``asleep`` to the next ``awake``, which ends a step; a generation
            that was stopped for it waits meanwhile.

    Returns:
        ``steps`` and ``seconds`` of that stretch, and of its time the shares in which the engine was ``busy`` with at
        least one generation, ``asleep``, and awake without anything to do (``waiting``).
    """
    in_order = sorted(notes, key=lambda each: float(each["begin"]))
    woken = [float(each["begin"]) for each in in_order if each["kind"] == AWAKE]
    begin, end = woken[0], woken[-1]
    slept = [float(each["begin"]) for each in in_order if each["kind"] == ASLEEP]
    asleep = [(at, next(later for later in woken if later > at)) for at in slept if begin <= at < end]
    spans = [(float(each["begin"]), float(each["end"])) for each in in_order if each["kind"] == GENERATION]
    awake = list(zip([begin, *(later for _, later in asleep)], [*(at for at, _ in asleep), end], strict=True))
    busy = sum(_covered(spans, *stretch) for stretch in awake)
    sleeping = sum(later - at for at, later in asleep)
    seconds = end - begin
    return {
        "steps": len(woken) - 1,
        "seconds": seconds,
        "busy": busy / seconds,
        "asleep": sleeping / seconds,
        "waiting": (seconds - sleeping - busy) / seconds,
    }


def _covered(spans: list[Span], begin: float, end: float) -> float:
    """Seconds between ``begin`` and ``end`` in which at least one of the spans lasts."""
    total, reached = 0.0, begin
    for first, last in sorted(spans):
        first, last = max(first, reached), min(last, end)
        if first < last:
            total, reached = total + last - first, last
    return total
