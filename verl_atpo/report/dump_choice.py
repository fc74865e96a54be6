"""Which trees of a step are dumped: ``algorithm.atpo.dump_every`` and ``dump_max``.

Chosen before the trees grow, for all workers at once and in the order of the batch: choosing among those that are
finished would favour short ones.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict

MARK = "atpo_dump"
"""Column of a batch of prompts: whether the tree of a prompt is dumped."""


class DumpChoice:
    """Marks prompts, step by step.

    Args:
        every: steps from one that is dumped to the next; the first step is.
        most: trees a step, ``None`` for all.
    """

    def __init__(self, every: int, most: int | None) -> None:
        self._every, self._most = every, most
        self._step, self._taken = -1, 0

    def mark(self, prompts: TensorDict) -> None:
        """Mark the prompts of a training batch; those that replace failed ones count for their step too."""
        if "validate" not in prompts:
            prompts[MARK] = torch.tensor(self.marks(int(prompts["global_steps"]), len(prompts)))

    def marks(self, step: int, prompts: int) -> list[bool]:
        """Whether the trees of that many further prompts of a step, counted from 1, are dumped."""
        if step != self._step:
            self._step, self._taken = step, 0
        if (step - 1) % self._every:
            return [False] * prompts
        chosen = prompts if self._most is None else min(prompts, self._most - self._taken)
        self._taken += chosen
        return [True] * chosen + [False] * (prompts - chosen)
