"""A growing or finished tree and the trajectories it is made of."""

from __future__ import annotations

import dataclasses
from typing import Any

from verl_atpo.method.expansion import Pick
from verl_atpo.replay.runner import Branch
from verl_atpo.tree.recording import Turn
from verl_atpo.tree.tree import ROOT, TurnTree


@dataclasses.dataclass
class Limb:
    """One of a tree's M + L * K trajectories, running or finished.

    Attributes:
        number: of its leaf, in order of start.
        round: the same for expansions that start together; 0 for the initial chains.
        pick: the turn selected for re-sampling; ``None`` for an initial chain.
        context: nodes whose turns it shares.
        started_s, ended_s: seconds since the tree's start; ``None`` until it has ended.
        failures: errors that ended earlier tries.
        tip: node of its latest turn that is in the tree; of an ended one its leaf.
        joined: turns of the current try that are in the tree, shared ones included; ``None`` before its first own one.
        branch: the finished run.
        sampled_tokens: tokens the engine sampled for it, failed tries included.
    """

    number: int
    round: int
    pick: Pick | None
    context: list[int]
    started_s: float
    ended_s: float | None = None
    failures: list[Exception] = dataclasses.field(default_factory=list)
    tip: int = ROOT
    joined: int | None = None
    branch: Branch | None = None
    sampled_tokens: int = 0

    @property
    def resampled(self) -> Turn | None:
        """Turn that it sampled in place of the selected one; None for a fresh chain, and until it has ended."""
        if self.pick is None or self.pick.node == ROOT or self.branch is None:
            return None
        return self.branch.turns[min(len(self.context), len(self.branch.turns) - 1)]

    def count(self, tokens: int) -> None:
        """Count a generation's tokens."""
        self.sampled_tokens += tokens


@dataclasses.dataclass
class GrownTree:
    """A tree and the trajectories it is made of.

    Attributes:
        tree: structure, turns, mean NLLs and rewards. Turns of a failed try stay in it; without a leaf below
            they have no value.
        limbs: its trajectories, running ones too, by leaf number; each sampled the nodes that carry its number.
        answers: of the engine to the questions of the credit scheme; ``None`` where it asks nothing.
    """

    tree: TurnTree = dataclasses.field(default_factory=TurnTree)
    limbs: list[Limb] = dataclasses.field(default_factory=list)
    answers: Any = None

    @property
    def branches(self) -> list[Branch]:
        """The finished runs, by leaf number."""
        return [limb.branch for limb in self.limbs if limb.branch is not None]

    @property
    def outcomes(self) -> list[float]:
        """Outcomes of the finished runs, by leaf number."""
        return [branch.reward for branch in self.branches]

    @property
    def leaves(self) -> list[int]:
        """Last node of each finished run."""
        return [limb.tip for limb in self.limbs if limb.branch is not None]

    @property
    def paths(self) -> list[list[int]]:
        """Nodes of every finished trajectory that has joined the tree, in order of leaf number."""
        return [self.tree.path(leaf) for leaf in self.leaves if leaf != ROOT]

    def shared_turns(self, limb: Limb) -> int:
        """Count the turns of an ended trajectory that others sampled."""
        return sum(self.tree.nodes[node].branch != limb.number for node in self.tree.path(limb.tip))

    @property
    def picked(self) -> list[int]:
        """Nodes that were sampled again, in order of start."""
        return [limb.pick.node for limb in self.limbs if limb.pick is not None]

    @property
    def regrown(self) -> int:
        """Number of repeated tries."""
        return sum(len(limb.failures) for limb in self.limbs)
