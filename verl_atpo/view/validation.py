"""Validation trajectories that verl dumped (``trainer.validation_data_dir``): a file a step, a line a trajectory."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_atpo.report.dump_reader import DEPTH
from verl_atpo.report.plain_json import plain

MOST_LINES = 2000
"""Trajectories of one file that are shown."""
LONGEST_LINE = 4 << 20
_NAME = re.compile(r"\d{1,9}\.jsonl")


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One validation trajectory.

    Attributes:
        number: line in its file, from 0.
        prompt: as verl decoded it.
        response: everything after the prompt, answers of tools included.
        truth: the right answer, as text.
        score: the reward; ``None``: the file does not say.
        extra: further keys of the reward function.
    """

    number: int
    prompt: str
    response: str
    truth: str
    score: float | None
    extra: dict[str, Any]


def validation_files(folder: Path) -> dict[int, Path]:
    """Find the files of a run's folder by step; of several folders the one with the latest file."""
    by_folder: dict[Path, dict[int, Path]] = {}
    for depth in range(DEPTH):
        for path in folder.glob("*/" * depth + "*.jsonl"):
            if _NAME.fullmatch(path.name) and next(read_trajectories(path, 1), None) is not None:
                by_folder.setdefault(path.parent, {})[int(path.stem)] = path
    if not by_folder:
        return {}
    latest = max(by_folder.values(), key=lambda files: max(path.stat().st_mtime for path in files.values()))
    return dict(sorted(latest.items()))


def read_trajectories(path: Path, most: int = MOST_LINES) -> Iterator[Trajectory]:
    """Read up to ``most`` trajectories of a file; lines that are none are skipped."""
    found = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b"")):
                trajectory = _trajectory(number, line)
                if trajectory is not None:
                    found += 1
                    yield trajectory
                if found >= most or number > 2 * most + 100:
                    return
    except OSError:
        return


def _trajectory(number: int, line: bytes) -> Trajectory | None:
    try:
        entry = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("input"), str)
        or not isinstance(entry.get("output"), str)
    ):
        return None
    score = plain(entry.get("score"))
    known = {"input", "output", "gts", "score", "step"}
    extra = plain({key: value for key, value in entry.items() if key not in known and value is not None})
    truth = plain(entry.get("gts"))
    return Trajectory(
        number,
        _clean(entry["input"]),
        _clean(entry["output"]),
        "" if truth is None else str(truth),
        float(score) if isinstance(score, int | float) else None,
        extra,
    )


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
