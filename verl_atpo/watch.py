"""Follow a verl run from another process: one line per step with alarms, the time left, and how the run ended.

python -m verl_atpo.watch outputs/run               # a folder, or the file of verl's logger `file`; Ctrl+C ends it
python -m verl_atpo.watch outputs/run --pid 4711    # until that process has ended
python -m verl_atpo.watch outputs/run --once        # the steps so far

The run needs verl's logger `file` (trainer.logger='["console","file"]'), which writes to VERL_FILE_LOGGER_PATH.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verl_atpo.report.metrics_file import Steps, find_metrics, read_steps
from verl_atpo.report.run_file import RunFile, find_run, lives
from verl_atpo.report.step_line import step_line

PATIENCE_MIN = 0.25
"""Minutes between signs of life before the first step."""
LATEST = 5
"""Number of latest steps from which the time left is estimated."""


def watch(run: Path, goes_on: Callable[[], bool], every_s: float = 1.0) -> int:
    """Print a line for every new step, and a sign of life before the first.

    Args:
        run: its folder, or the file of verl's logger.
        goes_on: returns whether more steps may follow; a run that ended or died stops the watch as well.
        every_s: seconds between looks.

    Returns:
        Number of steps that were printed.
    """
    started, shown, reported = time.monotonic(), 0, 0.0
    running = True
    while running:
        start = find_run(run if run.is_dir() else run.parent)
        running = goes_on() and (start is None or start.lives is not False)
        steps = read_steps(*(find_metrics(run) if run.is_dir() else [run]))
        minutes = (time.monotonic() - started) / 60
        for number in range(shown, len(steps)):
            print(_latest(steps[: number + 1], start, minutes), flush=True)
        shown = len(steps)
        if running and not shown and minutes - reported > PATIENCE_MIN:
            reported = minutes
            print(f"{minutes:5.1f} min  starting: Ray, the trainer and the engine ...", flush=True)
        if running:
            time.sleep(every_s)
        elif start is not None and start.lives is False:
            print(f"the run has ended: {start.state}{_after(steps)}", flush=True)
    return shown


def line(step: int, data: dict[str, Any], minutes: float, total: int | None = None, left_s: float | None = None) -> str:
    """Format one step as a line.

    Args:
        step: its number.
        data: its metrics.
        minutes: since the watch started.
        total: steps of the run.
        left_s: seconds that the remaining steps will take.
    """
    return f"{minutes:5.1f} min  {step_line(step, data, total, left_s)}"


def _latest(steps: Steps, start: RunFile | None, minutes: float) -> str:
    """Format the latest step, with the time left if the run's number of steps is known."""
    step, data = steps[-1]
    total = start.steps if start is not None else None
    seconds = [each["timing_s/step"] for _, each in steps[-LATEST:] if "timing_s/step" in each]
    left = (total - step) * sum(seconds) / len(seconds) if total is not None and seconds else None
    return line(step, data, minutes, total, left)


def _after(steps: Steps) -> str:
    return f", after step {steps[-1][0]}" if steps else ", before the first step; its log says why"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m verl_atpo.watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run, or file of verl's logger `file`")
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--pid", type=int, help="process to follow to its end")
    until.add_argument("--once", action="store_true", help="show what there is and end")
    options = parser.parse_args(arguments)
    if options.pid is not None:
        watch(options.run, lambda: lives(options.pid))
        return 0
    if not options.run.exists():
        parser.error(f"there is no {options.run}: name the folder of a run, or the file of verl's logger `file`")
    with contextlib.suppress(KeyboardInterrupt):
        if not watch(options.run, lambda: not options.once):
            print(f"no step is logged in {options.run}: does trainer.logger have `file`, and is this its folder?")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
