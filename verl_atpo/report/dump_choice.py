"""The choice of the trees that a step dumps: ``algorithm.atpo.dump_every`` and ``dump_max``.

It is made before the trees grow, for all workers at once and in the order of the batch: a choice among finished trees
would favour short ones.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict

DUMPED = "atpo_dump"
"""Column of a batch of prompts: whether the tree of a prompt is dumped."""


class DumpChoice:
    """Mark the prompts whose trees are dumped, step by step.

    Args:
        every: steps from one dumped step to the next; the first step is dumped.
        most: trees a step, ``None`` for all.
    """

    def __init__(self, every: int, most: int | None) -> None:
        self._every, self._most = every, most
        self._step, self._taken = -1, 0

    def mark(self, prompts: TensorDict) -> None:
        """Mark the prompts of a training batch; replacements of failed prompts count for their step too."""
        if "validate" not in prompts:
            prompts[DUMPED] = torch.tensor(self.marks(int(prompts["global_steps"]), len(prompts)))

    def marks(self, step: int, prompts: int) -> list[bool]:
        """Decide for the next ``prompts`` prompts of a step (counted from 1) whether their trees are dumped."""
        if step != self._step:
            self._step, self._taken = step, 0
        if (step - 1) % self._every:
            return [False] * prompts
        chosen = prompts if self._most is None else min(prompts, self._most - self._taken)
        self._taken += chosen
        return [True] * chosen + [False] * (prompts - chosen)
