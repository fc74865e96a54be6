"""The tasks there are, by name."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.lab import hopqa, text_world
from benchmarks.lab.episodes import Task

TASKS: dict[str, Callable[[int], Task]] = {"hopqa": hopqa.make_task, "text_world": text_world.make_task}
"""Makes a task in a world."""
