"""Rule by which failures of trees end the training run, with the reason.

verl's trainer hands prompts out and polls its replay buffer for the ones that have ended; it does not learn why one
failed. :func:`check_while_polling` wraps the buffer's look at the queue, once, in the trainer's process.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_atpo.config import ConfigError
from verl_atpo.failure import NothingSampledError, TrajectoryBug, brief
from verl_atpo.seams.wrap import wrap_once

LOOK_S = 10.0
"""Seconds between two looks at the workers while no prompt has failed."""
LONGEST_ROW = 200
"""Characters of a data row that a message repeats."""


class RunStopped(RuntimeError):
    """Training cannot continue. Says why, what to do, and on which data row."""


@dataclasses.dataclass(frozen=True)
class Failures:
    """Failures of one worker's prompts since its start.

    Attributes:
        finished: prompts whose rows were all published.
        failed: prompts that failed of outages.
        outage: why the last of them failed.
        bugs: prompts that failed of errors in a loop, a tool or the reward.
        bug: why the first of them failed.
        fatal: a reason to end the run at once: a setting that cannot work, or a stuck worker.
        stuck: the worker makes no progress, so none of its prompts will end.
    """

    finished: int = 0
    failed: int = 0
    outage: str | None = None
    bugs: int = 0
    bug: str | None = None
    fatal: str | None = None
    stuck: bool = False


class StopRule:
    """Decides when failures end the run.

    That is when a setting cannot work, when ``max_bugs`` prompts failed of errors while as many finished as a step has,
    and when a whole step of prompts failed and none finished.

    Args:
        prompts: number of prompts of a training step.
        max_bugs: ``algorithm.atpo.growth.max_bugs``.
    """

    def __init__(self, prompts: int, max_bugs: int = 3) -> None:
        self._prompts, self._max_bugs = prompts, max_bugs
        self._finished = self._failed = 0
        self._window = self._window_bugs = 0

    def check(self, workers: Iterable[Failures]) -> None:
        """Check the failures of all workers.

        Raises:
            RunStopped: the run has to end.
        """
        workers = list(workers)
        if fatal := next((worker.fatal for worker in workers if worker.fatal is not None), None):
            raise RunStopped(fatal)
        finished, outages, bugs = (sum(getattr(worker, each) for worker in workers) for each in _COUNTED)
        if finished > self._finished:
            self._finished, self._failed = finished, outages + bugs
        if finished - self._window >= self._prompts:
            self._window, self._window_bugs = finished, bugs
        failed = outages + bugs - self._failed
        bug = next((worker.bug for worker in workers if worker.bug is not None), None)
        if bug is not None and (bugs - self._window_bugs >= self._max_bugs or failed >= self._prompts):
            raise RunStopped(bug)
        if failed >= self._prompts:
            reason = next((worker.outage for worker in reversed(workers) if worker.outage), "unknown")
            raise RunStopped(
                f"{reason}. The last {failed} trees failed of outages like this one and none finished, so there is "
                "nothing to train on. Remedy: bring the engine, tool or server back and start again from the last "
                "checkpoint, or raise algorithm.atpo.growth.max_regrows and regrow_delay_s to wait longer."
            )


_COUNTED = ("finished", "failed", "bugs")


def describe_bug(error: BaseException, prompt: Mapping[str, Any]) -> str:
    """Describe a bug in one message: what was raised where, the remedy, and on which data row.

    Args:
        error: exception of a run of the agent loop.
        prompt: verl's fields of the prompt.
    """
    row = f"data_source={prompt.get('data_source')!r}, extra_info={prompt.get('extra_info')}"[:LONGEST_ROW]
    met = f"It occurred on prompt {prompt.get('uid')} ({row})."
    if isinstance(error, ConfigError | TrajectoryBug | NothingSampledError):
        return f"{error} {met}"
    return (
        f"The agent loop {prompt.get('agent_name')!r} raised {brief(error)} at {_place(error)}. Remedy: fix it; for "
        "transient errors raise verl_atpo.tools.ToolOutage, ConnectionError or TimeoutError, and the trajectory is "
        f"run again. {met}"
    )


def _place(error: BaseException) -> str:
    """Return the line that raised an error, or the ``SystemExit`` or the like that the error wraps."""
    while isinstance(error.__cause__, BaseException) and not isinstance(error.__cause__, Exception):
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "an unknown place"


def check_while_polling(check: Callable[[], None], every_s: float = LOOK_S) -> Callable[[], None]:
    """Let verl's trainer call ``check`` when its replay buffer sees a prompt that failed, and every few seconds.

    Args:
        check: raises what has to end the run.
        every_s: seconds between two calls while no prompt has failed.

    Returns:
        Function that undoes it.
    """
    last = time.monotonic()

    def with_check(original: Any) -> Any:
        def look(self: ReplayBuffer) -> None:
            nonlocal last
            original(self)
            if any(self.failure_keys.values()) or time.monotonic() - last >= every_s:
                last = time.monotonic()
                check()

        return look

    return wrap_once(ReplayBuffer, "_sync_metadata_from_transfer_queue", with_check)
