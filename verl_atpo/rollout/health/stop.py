"""How a bug that a rollout worker met, or an outage without an end, stops the training run with its reason.

verl's trainer hands prompts out and polls its replay buffer for the ones that have ended; it does not learn why one
failed. :func:`check_while_polling` wraps the buffer's look at the queue, once, in the trainer's process, so that a look
that finds failed prompts asks the workers first.
"""

from __future__ import annotations

import dataclasses
import functools
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_atpo.config import ConfigError
from verl_atpo.failure import LONGEST_REASON, BranchBug, NothingSampledError, brief


class RunStopped(RuntimeError):
    """Every further tree would fail the same way. Says where, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Failures:
    """What one worker knows of its prompts since its start.

    Attributes:
        finished: trees that were published.
        failed: trees that failed of outages.
        outage: why the last of them failed.
        bug: what has to stop the run, of train or validation prompts.
    """

    finished: int = 0
    failed: int = 0
    outage: str | None = None
    bug: str | None = None


class StopRule:
    """Decides when failures stop the run: at the first bug, or when a whole step of trees failed and none finished.

    Args:
        prompts: of one training step.
    """

    def __init__(self, prompts: int) -> None:
        self._prompts = prompts
        self._finished = self._failed = 0

    def check(self, workers: Iterable[Failures]) -> None:
        """Look at what all workers know.

        Raises:
            RunStopped: the run has to end.
        """
        workers = list(workers)
        for worker in workers:
            if worker.bug is not None:
                raise RunStopped(worker.bug)
        finished, failed = sum(worker.finished for worker in workers), sum(worker.failed for worker in workers)
        if finished > self._finished:
            self._finished, self._failed = finished, failed
        if failed - self._failed >= self._prompts:
            reason = next((worker.outage for worker in reversed(workers) if worker.outage), "unknown")
            raise RunStopped(
                f"The last {failed - self._failed} trees failed of outages and none finished, so there is nothing to "
                f"train on. The last one: {reason}. Remedy: bring the engine, tool or server back and start again "
                "from the last checkpoint, or raise algorithm.atpo.growth.max_regrows and regrow_delay_s to wait "
                "longer."
            )


def describe_bug(error: BaseException, prompt: Mapping[str, Any]) -> str:
    """One message for a bug: what was raised where, on which prompt, and the remedy.

    Args:
        error: what a run of the agent loop raised.
        prompt: verl's fields of the prompt.
    """
    row = f"data_source={prompt.get('data_source')!r}, extra_info={prompt.get('extra_info')}"[:LONGEST_REASON]
    where = f"prompt {prompt.get('uid')} ({row})"
    if isinstance(error, ConfigError | BranchBug | NothingSampledError):
        return f"{error} It was met on {where}."
    return (
        f"The agent loop {prompt.get('agent_name')!r} raised {brief(error)} at {_place(error)}, on {where}. A bug "
        "comes again on every tree, so the run stops. Remedy: mend it; for trouble that passes raise "
        "verl_atpo.tools.ToolOutage, ConnectionError or TimeoutError, and the branch is grown again."
    )


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "an unknown place"


def check_while_polling(check: Callable[[], None]) -> Callable[[], None]:
    """Let verl's trainer call ``check`` whenever its replay buffer sees a prompt that failed.

    Args:
        check: raises what has to end the run.

    Returns:
        Function that undoes it.
    """
    original = ReplayBuffer._sync_metadata_from_transfer_queue

    @functools.wraps(original)
    def look(self: ReplayBuffer) -> None:
        original(self)
        if any(self.failure_keys.values()):
            check()

    def undo() -> None:
        ReplayBuffer._sync_metadata_from_transfer_queue = original  # type: ignore[method-assign]

    ReplayBuffer._sync_metadata_from_transfer_queue = look  # type: ignore[method-assign]
    return undo
