"""Choice of the trees that a step dumps: ``algorithm.atpo.dump_every`` and ``dump_max``.

It is made before the trees grow, for all workers at once and in the order of the batch: a choice among finished trees
would favour short ones.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from tensordict import TensorDict

from verl_atpo.report.run_file import start_name

DUMPED = "atpo_dump"
"""Column of a batch of prompts: 0 for a tree that is not dumped, else the start of the run, ms since the epoch."""


class DumpChoice:
    """Mark the prompts whose trees are dumped, step by step.

    Args:
        every: steps from one dumped step to the next; the first step is dumped.
        most: trees a step, ``None`` for all.
    """

    def __init__(self, every: int, most: int | None) -> None:
        self._every, self._most = every, most
        self._step, self._taken = -1, 0
        self._start = time.time_ns() // 1_000_000

    def mark(self, prompts: TensorDict) -> None:
        """Mark the prompts of a training batch; replacements of failed prompts count for their step too."""
        if "validate" not in prompts:
            marks = torch.tensor(self.marks(int(prompts["global_steps"]), len(prompts)), dtype=torch.int64)
            prompts[DUMPED] = marks * self._start

    def marks(self, step: int, prompts: int) -> list[bool]:
        """Decide for the next ``prompts`` prompts of a step (counted from 1) whether their trees are dumped."""
        if step != self._step:
            self._step, self._taken = step, 0
        if (step - 1) % self._every:
            return [False] * prompts
        chosen = prompts if self._most is None else min(prompts, self._most - self._taken)
        self._taken += chosen
        return [True] * chosen + [False] * (prompts - chosen)


def take_mark(prompt: dict[str, Any]) -> tuple[bool, str | None]:
    """Take the mark off a prompt.

    Returns:
        Whether its tree is dumped, and the name of the run's start; ``None`` if nothing marked it.
    """
    mark = int(prompt.pop(DUMPED, 1))
    return mark != 0, start_name(mark) if mark > 1 else None
