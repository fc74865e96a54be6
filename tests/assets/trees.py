"""Random turn trees for property tests, and the rows that a rollout makes of a tree."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import torch

from verl_atpo.config import Backup, CreditConfig, Normalize
from verl_atpo.method.channel import write_values
from verl_atpo.method.credit import Outcomes, carried_values, node_values, normalization
from verl_atpo.method.returns import leaf_returns
from verl_atpo.tree.tree import ROOT, TurnTree

REWARDS = (0.0, 0.0, 1.0, 0.5, 1 / 3, -0.7)


def random_tree(seed: int, rewards: Sequence[float] = REWARDS) -> TurnTree:
    """One to four chains, then up to three rounds that re-sample up to three turns each."""
    rng = random.Random(seed)
    tree = TurnTree()

    def chain(parent: int, round: int) -> None:
        while rng.random() < 0.6:
            parent = tree.add_turn(parent, mean_nll=rng.uniform(0, 3), round=round).index
        tree.add_turn(parent, mean_nll=rng.uniform(0, 3), is_leaf=True, reward=rng.choice(rewards), round=round)

    for _ in range(rng.randint(1, 4)):
        chain(ROOT, 0)
    for round in range(1, rng.randint(0, 3) + 1):
        picked = rng.choices([node.index for node in tree.nodes if not node.is_leaf], k=rng.randint(1, 3))
        for index in picked:
            chain(ROOT if index == ROOT else tree.nodes[index].parent, round)
    return tree


def scaled(rewards: Sequence[float], normalize: Normalize) -> list[float]:
    """The rewards of one tree's leaves on the common scale."""
    offset, factor = normalization(Outcomes.of(rewards), normalize)
    return [(reward - offset) * factor for reward in rewards]


@dataclasses.dataclass(frozen=True)
class Row:
    """One leaf's response: ``turn_of`` names the node that sampled each token, ``None`` for observation tokens."""

    path: list[int]
    starts: list[int]
    turn_of: list[int | None]
    rewards: list[float]


def rows_of(tree: TurnTree, backup: Backup, seed: int = 0) -> list[Row]:
    """One row per leaf; a shared turn has the same tokens in each, and the first leaf's row has room for the mark."""
    rng = random.Random(seed)
    sampled = [rng.randint(1, 4) for _ in tree.nodes]
    sampled[tree.leaves[0]] += 4
    observed = [rng.randint(1, 3) for _ in tree.nodes]
    values = node_values(tree, backup)
    rows = []
    for leaf in tree.leaves:
        path, starts, turn_of = tree.path(leaf), [], []
        for index in path:
            starts.append(len(turn_of))
            turn_of += [index] * sampled[index] + [None] * (0 if index == leaf else observed[index])
        rewards = write_values([values[index] for index in path], starts, values[ROOT], len(turn_of))
        rows.append(Row(path, starts, turn_of, rewards))
    return rows


def carried_rows(tree: TurnTree, settings: CreditConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Token-level rewards and mask, a row a leaf: turns of two tokens, an observation of one between them."""
    values, returns = carried_values(tree, settings), leaf_returns(tree, settings.tool_rewards)
    rows, masks = [], []
    for leaf in tree.leaves:
        path = tree.path(leaf)
        length = 3 * len(path) - 1
        starts = list(range(0, length, 3))
        row = write_values([values[node] for node in path], starts, values[ROOT], length, returns[leaf])
        rows.append(torch.tensor(row))
        masks.append(torch.tensor([1, 1, 0] * len(path))[:length])
    rewards, mask = (torch.nn.utils.rnn.pad_sequence(each, batch_first=True) for each in (rows, masks))
    return rewards, mask
