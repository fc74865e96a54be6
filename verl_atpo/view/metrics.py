"""Metric files of a run as the pages see them: verl's logger ``file``, whose lines somebody else may have written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from verl_atpo.report.dump_reader import DEPTH
from verl_atpo.report.metrics_file import find_metrics

MOST_NAMES = 3000
LARGEST_FILE = 256 << 20
"""Bytes of a metric file that are read."""
Series = dict[str, list[tuple[int, float]]]
"""Metric -> steps and finite values, in order."""


class MetricFiles:
    """Metrics that verl's logger ``file`` wrote, one file for each start of the run; read again when they change.

    Of a step that two starts logged, the later file counts. Lines that are no step are skipped.

    Args:
        folder: the run's; the files are found by their first line.
        path: the file, where it is not in the folder.

    Attributes:
        series: metrics of all files together.
        by_file: metrics of each file.
        not_finite: metric -> last step at which it was NaN or infinite.
        changed_s: when a file was last written, as seconds since the epoch; 0 without files.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self._folder, self._path = folder, path
        self._sizes: dict[Path, tuple[int, float]] = {}
        self.series: Series = {}
        self.by_file: dict[Path, Series] = {}
        self.not_finite: dict[str, int] = {}
        self.changed_s = 0.0

    def update(self) -> None:
        """Read the files, if there is something new in them."""
        try:
            files = [self._path] if self._path is not None else find_metrics(self._folder, DEPTH)
            found = [(file, file.stat()) for file in files if file.exists()]
        except OSError:  # a file went away between two looks
            return
        sizes = {file: (stat.st_size, stat.st_mtime) for file, stat in found}
        if sizes == self._sizes:
            return
        self._sizes, self.by_file, self.not_finite = sizes, {}, {}
        self.changed_s = max((changed for _, changed in sizes.values()), default=0.0)
        everything: dict[str, dict[int, float]] = {}
        for file in sorted(sizes, key=lambda each: sizes[each][1]):
            own = self._read(file)
            self.by_file[file] = {name: sorted(points.items()) for name, points in own.items()}
            for name, points in own.items():
                everything.setdefault(name, {}).update(points)
        self.series = {name: sorted(points.items()) for name, points in everything.items()}

    def _read(self, file: Path) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        with file.open("rb") as lines:
            for line in lines.read(LARGEST_FILE).split(b"\n")[:-1]:
                step, data = _step_of(line)
                for name, value in data.items():
                    if not isinstance(value, int | float) or isinstance(value, bool) or len(found) >= MOST_NAMES:
                        continue
                    if math.isfinite(value) and abs(value) < 1e300:
                        found.setdefault(name, {})[step] = float(value)
                    else:
                        self.not_finite[name] = max(step, self.not_finite.get(name, 0))
        return found


def _step_of(line: bytes) -> tuple[int, dict[str, Any]]:
    """Step and metrics of a line; no metrics where it is no step."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return 0, {}
    if not isinstance(entry, dict):
        return 0, {}
    step, data = entry.get("step"), entry.get("data")
    if isinstance(step, int) and 0 <= step < 1 << 53 and isinstance(data, dict):
        return step, data
    return 0, {}
