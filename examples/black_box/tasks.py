"""Tasks, drawn at random: a repository in which one or two settings have wrong values."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

from examples.black_box.repository import checks_script

FILES = ("client", "server", "cache", "worker", "router", "storage", "logger", "queue")
NAMES = (
    "PORT",
    "RETRIES",
    "TIMEOUT",
    "THREADS",
    "LIMIT",
    "DEPTH",
    "WIDTH",
    "BATCH",
    "DELAY",
    "LEVEL",
    "QUOTA",
    "SHARDS",
)
VALUES = tuple(range(10, 30))
QUESTION = "Make the checks pass."
FILES_EACH, NAMES_EACH = 4, 2
FAULTS = (1, 2)


@dataclasses.dataclass(frozen=True)
class Repair:
    """One task.

    Attributes:
        files: file -> name -> value, as the agent finds them.
        wanted: file -> name -> value, of the settings that are wrong.
    """

    files: dict[str, dict[str, int]]
    wanted: dict[str, dict[str, int]]

    @property
    def texts(self) -> dict[str, str]:
        """Texts of the files as the agent finds them."""
        return {file: _text(settings) for file, settings in self.files.items()}

    @property
    def repaired(self) -> dict[str, str]:
        """Texts of the files when all checks pass and nothing else is changed."""
        return {file: _text(settings | self.wanted.get(file, {})) for file, settings in self.files.items()}

    @property
    def lines(self) -> list[str]:
        """The lines that the checks look for, the missing ones first to last."""
        return [f"{name} = {value}" for settings in self.wanted.values() for name, value in settings.items()]

    def row(self, index: int) -> dict[str, Any]:
        """Write the task as a row of verl's data."""
        extra = {"index": index, "files": json.dumps(self.texts), "checks": checks_script(self.lines)}
        return {
            "data_source": f"black_box_{len(self.lines)}",
            "prompt": [{"role": "user", "content": QUESTION}],
            "reward_model": {"style": "rule", "ground_truth": json.dumps(self.repaired, sort_keys=True)},
            "extra_info": extra,
        }


def _text(settings: dict[str, int]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def draw(rng: random.Random, faults: int) -> Repair:
    """Draw a task with so many wrong values, in files of their own."""
    names = iter(rng.sample(NAMES, FILES_EACH * NAMES_EACH))
    files = {
        file: {next(names): rng.choice(VALUES) for _ in range(NAMES_EACH)} for file in rng.sample(FILES, FILES_EACH)
    }
    wanted = {}
    for file in rng.sample(list(files), faults):
        name = rng.choice(list(files[file]))
        wanted[file] = {name: rng.choice([value for value in VALUES if value != files[file][name]])}
    return Repair(files, wanted)
