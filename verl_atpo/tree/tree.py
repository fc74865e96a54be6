"""The turn tree of one prompt: what was sampled from which context. Pure Python.

A node is one *turn*: the tokens the policy sampled between two observations, together with the
observation that opened it. The root is the prompt. A leaf is a turn that ended its trajectory.

Invariant: a node holds only its own turn. The context it was sampled from is its parent's path, which is
derived (:meth:`TurnTree.path`) and never stored, so two leaves cannot disagree about a turn they share.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from verl_atpo.tree.recording import Generation, Turn

ROOT = 0
"""Index of the root, the prompt itself."""


@dataclasses.dataclass(slots=True)
class TurnNode:
    """One turn of a tree.

    Attributes:
        index: place in :attr:`TurnTree.nodes`.
        parent: index of the turn before; -1 for the root.
        mean_nll: mean negative log-likelihood of the turn's sampled tokens, nats/token; ``None`` for the root, and if
            the engine returned no log-probs.
        is_leaf: the turn ended its trajectory.
        reward: outcome reward of the trajectory that a leaf ends; ``None`` means not known, which is not 0.
        tool_reward: sum of the rewards that tools gave for the calls after the turn.
        round: 0 for a turn of an initial chain, r >= 1 for a turn grown in expansion round r.
        sampled_by: number of the run (and of its leaf) that sampled it; -1 where it does not matter.
        turn: its tokens and the observation that opened it; ``None`` for the root, and where only numbers matter.
        children: indices of the turns sampled after this one, in order of addition.
    """

    index: int
    parent: int
    mean_nll: float | None
    is_leaf: bool = False
    reward: float | None = None
    round: int = 0
    sampled_by: int = -1
    turn: Turn | None = None
    tool_reward: float = 0.0
    children: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Depth:
    """One depth of chains.

    Attributes:
        spent: share of its tokens that a chain has sampled before its turn there, over the chains that came so far.
        going: share of all chains that continue after this turn, so that it may be re-sampled.
    """

    spent: float
    going: float


class TurnTree:
    """A growing tree of turns; ``nodes[0]`` is the root and a parent's index is below its children's.

    Examples:
        >>> tree = TurnTree()
        >>> search = tree.add_turn(ROOT, mean_nll=0.7)
        >>> answer = tree.add_turn(search.index, mean_nll=0.2, is_leaf=True, reward=1.0)
        >>> tree.path(answer.index), tree.leaves
        ([1, 2], [2])

    Attributes:
        nodes: the root and all turns.
        pending: by node, expansions that have started after it and have no turn of their own yet.
        groupings: equal contexts that were found, see :func:`verl_atpo.tree.contexts.group_contexts`.
        undecided: share of the outcome's variance that earlier trees had left after 0, 1, ... turns; (1,) before any.
        depths: profile of the chains of earlier trees at their 1st, 2nd, ... turn; empty if it is not used.
    """

    def __init__(self, undecided: Sequence[float] = (1.0,), depths: Sequence[Depth] = ()) -> None:
        self.nodes: list[TurnNode] = [TurnNode(index=ROOT, parent=-1, mean_nll=None)]
        self.pending: Counter[int] = Counter()
        self.groupings: dict[Hashable, Any] = {}
        self.undecided = undecided
        self.depths = depths

    def add_turn(
        self,
        parent: int,
        *,
        mean_nll: float | None,
        is_leaf: bool = False,
        reward: float | None = None,
        round: int = 0,
        sampled_by: int = -1,
        turn: Turn | None = None,
        tool_reward: float = 0.0,
    ) -> TurnNode:
        """Add the turn that was sampled after ``parent``.

        Args:
            parent: index of the turn before (:data:`ROOT` for a first turn).
            mean_nll: mean negative log-likelihood of the turn's sampled tokens, nats/token; ``None`` if not known.
            is_leaf: the turn ended its trajectory.
            reward: outcome reward, for leaves only; ``None`` if not known (yet).
            round: expansion round that grew the turn, 0 for the initial chains.
            sampled_by: number of the run that sampled it.
            turn: its tokens and the observation that opened it.
            tool_reward: sum of the rewards that tools gave for the calls after it.

        Returns:
            The new node.

        Raises:
            ValueError: unknown parent, parent that is a leaf, reward on a non-leaf, non-finite number.
        """
        if not 0 <= parent < len(self.nodes):
            raise ValueError(f"parent={parent} is not a node: expected an index from 0 to {len(self.nodes) - 1}.")
        if self.nodes[parent].is_leaf:
            raise ValueError(f"parent={parent} is a leaf: its trajectory has ended, so no turn can follow it.")
        if mean_nll is not None and not math.isfinite(mean_nll):
            raise ValueError(f"mean_nll={mean_nll} of a turn after node {parent}: expected a finite number of nats.")
        if reward is not None and not is_leaf:
            raise ValueError(f"reward={reward} on a turn that is no leaf: only a trajectory's last turn has one.")
        if reward is not None and not math.isfinite(reward):
            raise ValueError(f"reward={reward} of a leaf: expected a finite number, or None for 'not known'.")
        node = TurnNode(
            len(self.nodes), parent, mean_nll, is_leaf, reward, round, sampled_by, turn=turn, tool_reward=tool_reward
        )
        self.nodes.append(node)
        self.nodes[parent].children.append(node.index)
        return node

    @property
    def breadth_first(self) -> list[int]:
        """List the indices of all nodes by depth, those of one depth in the order of their parents."""
        order = [ROOT]
        for index in order:
            order += self.nodes[index].children
        return order

    @property
    def leaves(self) -> list[int]:
        """Indices of the leaves, in order of addition."""
        return [node.index for node in self.nodes if node.is_leaf]

    def path(self, index: int) -> list[int]:
        """List the turns from the first one to ``index``, both included; the root is no turn, so its path is empty."""
        turns = []
        while index != ROOT:
            turns.append(index)
            index = self.nodes[index].parent
        return turns[::-1]

    def depth(self, index: int) -> int:
        """Count the turns up to and including ``index``; 0 for the root."""
        return len(self.path(index))

    def turn(self, index: int) -> Turn:
        """Return the turn of a node that was added with one."""
        turn = self.nodes[index].turn
        assert turn is not None, f"node {index} was added without its turn"
        return turn

    def generations(self, path: Sequence[int]) -> list[Generation]:
        """List the generations of the turns of a path, in order."""
        return [generation for index in path for generation in self.turn(index).generations]
