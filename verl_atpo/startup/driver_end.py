"""The end of a run in its driver: a record of how it ended, and a message after Ctrl+C or SIGTERM."""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import DictConfig

from verl_atpo.report.run_file import NAME, RunFile, read_run
from verl_atpo.startup.resume import checkpoint_folder, resumed_step, saves_checkpoints

logger = logging.getLogger(__name__)


class DriverEnd:
    """The run that this process drives, and its file.

    Args:
        config: verl's whole config.
        run: content of the run's file.
        folder: folder of the file.
    """

    def __init__(self, config: DictConfig, run: RunFile, folder: Path) -> None:
        self._config, self._run, self._folder = config, run, folder
        self._earlier_hook = sys.excepthook
        self._recorded = False

    def watch(self) -> None:
        """Write the file, and handle the end of the process from now on."""
        self._write(self._run)
        sys.excepthook = self._hook
        atexit.register(self._at_exit)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # Ray sets a similar one when it starts
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def ended(self, how: str) -> None:
        """Record in the file how the run ended."""
        self._recorded = True
        self._write(dataclasses.replace(self._run, ended=how))

    def stopped(self, how: str = "Stopped by Ctrl+C") -> str:
        """Return the message after Ctrl+C, or after a signal that a scheduler sends."""
        step = resumed_step(self._config)
        if step is not None:
            return f"{how}. The same command continues from step {step}."
        if saves_checkpoints(self._config):
            return f"{how}, before the first checkpoint. The same command starts at the first step."
        return f"{how}. No checkpoints are saved (trainer.save_freq=-1): the same command starts from the beginning."

    def _hook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if issubclass(kind, KeyboardInterrupt):
            hold_further_signals()
            self.ended("stopped")
            print(f"\n{self.stopped()}", file=sys.stderr, flush=True)
            return None
        self.ended(f"failed: {kind.__name__}")
        return self._earlier_hook(kind, error, trace)

    def _at_exit(self) -> None:
        """Record a run that ends before its end without an error: SIGTERM, or ``sys.exit``."""
        if not self._recorded:
            hold_further_signals()
            self.ended("stopped")
            print(f"\n{self.stopped('Stopped before its end')}", file=sys.stderr, flush=True)

    def _write(self, run: RunFile) -> None:
        for folder in (self._folder, checkpoint_folder(self._config)):
            try:
                if folder is not None:
                    run.write(folder)
            except OSError as error:  # no reason to end a run
                logger.warning("The run's file cannot be written into %s: %s", folder, error)


def hold_further_signals() -> None:
    """Let the end of the process finish: the next Ctrl+C or SIGTERM is answered, the one after it ends at once.

    Else it would interrupt whichever clean-up is at work, such as that of Ray.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    answered = False

    def held(number: int, frame: Any) -> None:
        nonlocal answered
        if answered:
            os._exit(128 + number)
        answered = True
        os.write(
            2, b"\nRay's processes are being stopped, which takes some seconds. Once more ends this process at once.\n"
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, held)


def running_beside(config: DictConfig) -> str | None:
    """Return the reason why a run must not start: another one saves its checkpoints in the same folder."""
    folder = checkpoint_folder(config)
    other = None if folder is None else read_run(folder / NAME)
    if folder is None or other is None or not other.lives or other.pid == os.getpid():
        return None
    return (
        f"the run of process {other.pid} saves its checkpoints there, and each would overwrite the other's; wait for "
        f"its end, or set another folder. If that process is no run, delete {folder / NAME}"
    )
