"""The one hook in verl's logger: it adds metrics of the rollout, and reports what is logged.

verl's V1 trainer has no hook for either, so :func:`add_to_tracking` wraps ``Tracking.log``, once, in the trainer's
process: what is logged for a training step gets the metrics of the trees that finished since the step before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from verl.utils import tracking
from verl.utils.tracking import Tracking

from verl_atpo.seams.wrap import wrap_once

STEP_METRIC = "training/global_step"
"""verl logs this with every training step, and with nothing else."""

Take = Callable[[], dict[str, float]]
Show = Callable[[dict[str, Any], int], None]
Follow = Callable[[int, Mapping[str, Any]], None]


def add_to_tracking(take: Take, show: Show | None = None, follow: Follow | None = None) -> Callable[[], None]:
    """Let verl's logger log ``take()`` with every training step, on all its backends.

    Args:
        take: gives the metrics since its last call.
        show: gets the backends by name, and the step, after a training step was logged.
        follow: gets the step and all metrics of everything that is logged, validations before training too.

    Returns:
        Function that undoes it.
    """

    def with_metrics(original: Any) -> Any:
        def log(self: Tracking, data: dict[str, Any], step: int, *args: Any, **kwargs: Any) -> Any:
            is_step = STEP_METRIC in data
            logged = {**data, **take()} if is_step else data
            result = original(self, logged, step, *args, **kwargs)
            if is_step and show is not None:
                show(self.logger, step)
            if follow is not None:
                follow(step, logged)
            return result

        return log

    return wrap_once(Tracking, "log", with_metrics)


def keep_metrics_files(resumes: bool) -> Callable[[], None]:
    """Let verl's logger ``file`` keep what an earlier start wrote into the same file; verl empties it.

    Args:
        resumes: whether the run continues from a checkpoint: its lines are added to the earlier ones. Otherwise the
            earlier file gets another name, ``metrics.jsonl.1`` and so on.

    Returns:
        Function that undoes it.
    """

    def open_kept(path: str, mode: str, **options: Any) -> Any:
        file = Path(path)
        if file.is_file() and file.stat().st_size:
            if resumes:
                return open(path, mode.replace("w", "a"), **options)
            file.rename(_free_name(file))
        return open(path, mode, **options)

    def with_kept_file(original: Any) -> Any:
        def keeping(self: Any, *args: Any, **kwargs: Any) -> None:
            tracking.open = open_kept  # type: ignore[attr-defined]  # the name that verl's class looks up
            try:
                original(self, *args, **kwargs)
            finally:
                del tracking.open  # type: ignore[attr-defined]

        return keeping

    return wrap_once(tracking.FileLogger, "__init__", with_kept_file)


def _free_name(file: Path) -> Path:
    names = (file.with_name(f"{file.name}.{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
