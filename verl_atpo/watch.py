"""Follow a verl run from outside: a line a step, as it comes.

python -m verl_atpo.watch outputs/run               # a folder, or the file of verl's logger `file`; Ctrl+C ends it
python -m verl_atpo.watch outputs/run --pid 4711    # until that process has ended
python -m verl_atpo.watch outputs/run --once        # what there is by now

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

import psutil

from verl_atpo.report.metrics_file import find_metrics, mean_accuracy, read_steps

PATIENCE_MIN = 0.25
"""Between signs of life before the first step."""


def line(step: int, data: dict[str, Any], minutes: float) -> str:
    """What one step comes to, for people."""
    parts = [f"{minutes:5.1f} min  step {step:3d}"]
    if "critic/score/mean" in data:
        parts.append(f"train reward {data['critic/score/mean']:.2f}")
    if "atpo/leaves_per_tree" in data:
        parts.append(
            f"{data['atpo/trees']:.0f} trees of {data['atpo/leaves_per_tree']:.0f} leaves, "
            f"{data['atpo/shared_tokens_share']:.0%} tokens shared"
        )
    if data.get("atpo/trees_failed"):
        parts.append(f"{data['atpo/trees_failed']:.0f} failed")
    if "timing_s/step" in data:
        parts.append(f"{data['timing_s/step']:.1f} s")
    accuracy = mean_accuracy(data)
    if accuracy is not None:
        parts.append(f"validation accuracy {accuracy:.1%}")
    return "  ".join(parts)


def watch(run: Path, goes_on: Callable[[], bool], every_s: float = 1.0) -> int:
    """Print a line for every step as it comes, and a sign of life before the first.

    Args:
        run: its folder, or the file of verl's logger.
        goes_on: whether there may be more to come.
        every_s: seconds between looks.

    Returns:
        How many steps were shown.
    """
    started, shown, told = time.monotonic(), 0, 0.0
    running = True
    while running:
        running = goes_on()
        steps = read_steps(*(find_metrics(run) if run.is_dir() else [run]))
        minutes = (time.monotonic() - started) / 60
        for step, data in steps[shown:]:
            print(line(step, data, minutes), flush=True)
        shown = len(steps)
        if running and not shown and minutes - told > PATIENCE_MIN:
            told = minutes
            print(f"{minutes:5.1f} min  starting: Ray, the trainer and the engine ...", flush=True)
        if running:
            time.sleep(every_s)
    return shown


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


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
