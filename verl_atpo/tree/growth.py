"""A tree under growth: its runs, the turns selected for re-sampling, and the trajectories that have ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from verl_atpo.tree.recording import Generation, Turn, group_turns
from verl_atpo.tree.trajectory import Trajectory
from verl_atpo.tree.tree import ROOT, TurnTree


@dataclasses.dataclass(frozen=True)
class Selection:
    """Reason for which a turn was selected for re-sampling.

    Attributes:
        node: the turn; :data:`~verl_atpo.tree.tree.ROOT` stands for a fresh chain.
        score: uncertainty at the time of the selection, nats/token.
        penalty: amount that was subtracted from its mean NLL, nats/token.
        rank: place among the candidates by score, from 1.
        candidates: number of candidates.
    """

    node: int
    score: float
    penalty: float
    rank: int
    candidates: int


@dataclasses.dataclass
class Rollout:
    """One of a tree's M + L * K runs of the agent loop, running or finished.

    Attributes:
        number: number of its leaf, in order of start.
        round: number that expansions which start together share; 0 for the initial chains.
        selection: the turn selected for re-sampling; ``None`` for an initial chain.
        context: nodes whose turns it shares.
        started_s, ended_s: seconds since the tree's start; ``None`` until it has ended.
        failures: errors that ended earlier attempts.
        tip: node of its latest turn that is in the tree; after its end, its leaf.
        joined: turns of the current attempt that are in the tree, with shared ones; ``None`` before its first own one.
        trajectory: its trajectory; ``None`` until it has ended.
        sampled_tokens: tokens the engine sampled for it, failed attempts included.
    """

    number: int
    round: int
    selection: Selection | None
    context: list[int]
    started_s: float
    ended_s: float | None = None
    failures: list[Exception] = dataclasses.field(default_factory=list)
    tip: int = ROOT
    joined: int | None = None
    trajectory: Trajectory | None = None
    sampled_tokens: int = 0

    @property
    def resampled(self) -> Turn | None:
        """Turn that it sampled in place of the selected one; None for a fresh chain, and until it has ended."""
        if self.selection is None or self.selection.node == ROOT or self.trajectory is None:
            return None
        return self.trajectory.turns[min(len(self.context), len(self.trajectory.turns) - 1)]

    def count(self, tokens: int) -> None:
        """Count a generation's tokens."""
        self.sampled_tokens += tokens


@dataclasses.dataclass
class GrownTree:
    """A tree and the runs that it is grown from.

    Attributes:
        tree: structure, turns, mean NLLs and rewards. Turns of a failed attempt stay in it; without a leaf below
            they have no value.
        rollouts: its runs, by leaf number; each sampled the nodes that carry its number.
        answers: answers of the engine to the questions of the credit scheme; ``None`` if it asks nothing.
    """

    tree: TurnTree = dataclasses.field(default_factory=TurnTree)
    rollouts: list[Rollout] = dataclasses.field(default_factory=list)
    answers: Any = None

    @property
    def trajectories(self) -> list[Trajectory]:
        """The finished trajectories, by leaf number."""
        return [rollout.trajectory for rollout in self.rollouts if rollout.trajectory is not None]

    @property
    def chains(self) -> list[Trajectory]:
        """The finished initial chains, by leaf number."""
        return [each.trajectory for each in self.rollouts if each.selection is None and each.trajectory is not None]

    @property
    def outcomes(self) -> list[float]:
        """Outcomes of the finished trajectories, by leaf number."""
        return [each.reward for each in self.trajectories]

    @property
    def sampled_tokens(self) -> int:
        """Tokens that the engine sampled for the tree, those of failed attempts included."""
        return sum(rollout.sampled_tokens for rollout in self.rollouts)

    @property
    def chain_tokens(self) -> float | None:
        """Tokens that as many independent chains sample: trajectories times the mean tokens of the initial chains.

        None where no initial chain has ended.
        """
        chains = self.chains
        tokens = sum(len(turn.token_ids) for chain in chains for turn in chain.turns)
        return len(self.trajectories) * tokens / len(chains) if chains else None

    @property
    def leaves(self) -> list[int]:
        """Last node of each finished trajectory."""
        return [rollout.tip for rollout in self.rollouts if rollout.trajectory is not None]

    @property
    def paths(self) -> list[list[int]]:
        """Nodes of every finished trajectory that has joined the tree, in order of leaf number."""
        return [self.tree.path(leaf) for leaf in self.leaves if leaf != ROOT]

    def join(
        self,
        rollout: Rollout,
        generations: Sequence[Generation],
        reward: float | None = None,
        tool_rewards: bool = False,
    ) -> None:
        """Add the turns of a run that are not in the tree yet.

        Args:
            rollout: the run.
            generations: generations of its current attempt so far, shared ones included.
            reward: outcome of a finished trajectory, whose last turn becomes a leaf.
            tool_rewards: whether rewards of tools count.
        """
        tree = self.tree
        if rollout.joined is None:
            rollout.tip, rollout.joined = ROOT, 0
            held = {id(generation) for generation in generations}
            for node in rollout.context:
                if any(id(generation) not in held for generation in tree.turn(node).generations):
                    break  # diverged in or before this turn: nothing is shared from here on
                rollout.tip, rollout.joined = node, rollout.joined + 1
        turns = group_turns(generations)
        for turn in turns[rollout.joined :]:
            ends = reward is not None and turn is turns[-1]
            rollout.tip = tree.add_turn(
                rollout.tip,
                mean_nll=turn.mean_nll if turn.log_probs else None,
                is_leaf=ends,
                reward=reward if ends else None,
                round=rollout.round,
                sampled_by=rollout.number,
                turn=turn,
                tool_reward=turn.tool_reward if tool_rewards else 0.0,
            ).index
        rollout.joined = len(turns)

    def shared_turns(self, rollout: Rollout) -> int:
        """Count the turns of an ended trajectory that others sampled."""
        return sum(self.tree.nodes[node].sampled_by != rollout.number for node in self.tree.path(rollout.tip))

    @property
    def selected(self) -> list[int]:
        """Nodes that were selected for re-sampling, in order of start."""
        return [rollout.selection.node for rollout in self.rollouts if rollout.selection is not None]

    @property
    def regrown(self) -> int:
        """Number of repeated attempts."""
        return sum(len(rollout.failures) for rollout in self.rollouts)
