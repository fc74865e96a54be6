"""The end of a run in its driver: a record of how it ended, and a message after Ctrl+C."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import DictConfig

from verl_atpo.report.run_file import RunFile
from verl_atpo.startup.resume import resumed_step, saves_checkpoints

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
        self._former = sys.excepthook

    def watch(self) -> None:
        """Write the file, and handle the end of the process from now on."""
        self._write(self._run)
        sys.excepthook = self._hook

    def ended(self, how: str) -> None:
        """Record in the file how the run ended."""
        self._write(dataclasses.replace(self._run, ended=how))

    def stopped(self) -> str:
        """Return the message after Ctrl+C."""
        step = resumed_step(self._config)
        if step is not None:
            return f"Stopped by Ctrl+C. The same command continues from step {step}."
        if saves_checkpoints(self._config):
            return "Stopped by Ctrl+C before the first checkpoint. The same command starts at the first step."
        return "Stopped by Ctrl+C. No checkpoints are saved (trainer.save_freq=-1): the same command starts anew."

    def _hook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if issubclass(kind, KeyboardInterrupt):
            self.ended("stopped")
            print(f"\n{self.stopped()}", file=sys.stderr, flush=True)
            return None
        self.ended(f"failed: {kind.__name__}")
        return self._former(kind, error, trace)

    def _write(self, run: RunFile) -> None:
        try:
            run.write(self._folder)
        except OSError as error:  # no reason to end a run
            logger.warning("The run's file cannot be written into %s: %s", self._folder, error)
