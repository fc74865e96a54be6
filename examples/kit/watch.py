"""Follow a verl run from outside: one short line per step, until the process ends.

python -m examples.kit.watch METRICS.jsonl --pid PID
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import psutil

from verl_atpo.metrics_file import mean_accuracy, read_steps


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
    if "timing_s/step" in data:
        parts.append(f"{data['timing_s/step']:.1f} s")
    accuracy = mean_accuracy(data)
    if accuracy is not None:
        parts.append(f"validation accuracy {accuracy:.1%}")
    return "  ".join(parts)


def watch(metrics: Path, pid: int, every_s: float = 1.0) -> None:
    """Print a line for every step as it comes, and a sign of life before the first."""
    started, shown, told = time.monotonic(), 0, 0.0
    running = True
    while running:
        running = psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        steps = read_steps(metrics)
        minutes = (time.monotonic() - started) / 60
        for step, data in steps[shown:]:
            print(line(step, data, minutes), flush=True)
        shown = len(steps)
        if not shown and minutes - told > 0.25:
            told = minutes
            print(f"{minutes:5.1f} min  starting Ray, the trainer and the vLLM server ...", flush=True)
        if running:
            time.sleep(every_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", type=Path, help="file of verl's logger `file`")
    parser.add_argument("--pid", type=int, required=True, help="process to follow")
    arguments = parser.parse_args()
    watch(arguments.metrics, arguments.pid)


if __name__ == "__main__":
    main()
