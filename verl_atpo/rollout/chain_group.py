"""Record of the independent trajectories that verl samples for one prompt: a tree without expansions."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_atpo.method.scheme import Credit
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.guard import CallMemo
from verl_atpo.tree.comparison import check_chain_rows
from verl_atpo.tree.growth import GrownTree, Rollout
from verl_atpo.tree.recording import group_turns
from verl_atpo.tree.trajectory import Trajectory

GRPO = "grpo"
"""verl's estimator whose advantages a record repeats; it gives all turns of a trajectory the same one."""


class ChainGroup:
    """Trajectories of one prompt, running and finished.

    Args:
        size: number of trajectories.
        memo: memo of calls of stateless tools, or None.
        records: whether finished trajectories are kept.

    Attributes:
        grown: the finished ones as a tree; those that are scored later are not in it.
        failed: number of trajectories that failed.
        error: the first error of a trajectory past its retries; ``None`` if all have finished.
        has_bug: whether any such error is a bug.
    """

    def __init__(self, size: int, memo: CallMemo | None, records: bool) -> None:
        self.size, self.memo, self._records = size, memo, records
        self.grown = GrownTree()
        self.failed = 0
        self.error: Exception | None = None
        self.has_bug = False
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the first trajectory began."""
        return time.monotonic() - self._began

    def begin(self, number: int) -> Rollout:
        """Add a trajectory that starts now."""
        rollout = Rollout(number, 0, None, [], self.seconds)
        self.grown.rollouts.append(rollout)
        return rollout

    def end(self, rollout: Rollout, session: ReplayClient, outputs: list[Any], response_length: int | None) -> None:
        """Add the turns of a trajectory that has ended; a trajectory without a reward is left out.

        Args:
            rollout: the trajectory.
            session: its client.
            outputs: outputs of its loop, scored.
            response_length: tokens at which a response is cut off; ``None`` if it never is.
        """
        if not self._records or not outputs or outputs[-1].reward_score is None:
            return
        generations = session.generations
        places = check_chain_rows(generations, outputs, response_length)
        rollout.trajectory = Trajectory(outputs, group_turns(generations), places, 0, False)
        rollout.ended_s = self.seconds
        self.grown.join(rollout, generations, rollout.trajectory.reward)


def chain_credit(grown: GrownTree, estimator: str, by_std: bool) -> Credit:
    """Compute the credit of independent trajectories: the value of a turn is the outcome of its trajectory.

    Args:
        grown: the trajectories.
        estimator: verl's; only GRPO's advantages are known here.
        by_std: whether it divides by the standard deviation of the group.
    """
    outcomes = grown.outcomes
    advantages: list[float | None] = [None] * len(outcomes)
    differences: list[list[dict[str, Any]]] = [[] for _ in outcomes]
    mean = math.fsum(outcomes) / len(outcomes) if outcomes else 0.0
    if estimator == GRPO and outcomes:
        found = _grpo(outcomes, by_std)
        advantages = [*found]
        differences = [_difference(value, mean, each) for value, each in zip(outcomes, found, strict=True)]
    return Credit(
        values=_by_node(grown, outcomes, mean if outcomes else None),
        advantages=_by_node(grown, advantages),
        rows=[],
        outcomes=outcomes,
        notes={"differences": _by_node(grown, differences)},
    )


def _grpo(outcomes: list[float], by_std: bool) -> list[float]:
    """Compute verl's GRPO advantages of one group."""
    scores = torch.tensor(outcomes, dtype=torch.float64).unsqueeze(1)
    index = np.zeros(len(outcomes), dtype=np.int64)
    found, _ = compute_grpo_outcome_advantage(scores, torch.ones_like(scores), index, norm_adv_by_std_in_grpo=by_std)
    return [float(each) for each in found[:, 0]]


def _difference(value: float, mean: float, advantage: float) -> list[dict[str, Any]]:
    """Describe GRPO's advantage as a term of the dump: the outcome over the mean, and the scale."""
    scale = advantage / (value - mean) if value != mean else 1.0
    return [{"value": value, "baseline": mean, "baseline_from": "leaves", "scale": scale}]


def _by_node(grown: GrownTree, of_trajectories: list[Any], of_root: Any = None) -> list[Any]:
    """Give every node what its trajectory has."""
    found = [of_root] + [None] * (len(grown.tree.nodes) - 1)
    for leaf, each in zip(grown.leaves, of_trajectories, strict=True):
        for node in grown.tree.path(leaf):
            found[node] = each
    return found
