"""Random turn trees for property tests, and the rows that a rollout makes of a tree."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import torch

from verl_atpo.config import AtpoConfig, CreditConfig, Normalize
from verl_atpo.method.channel import write_row
from verl_atpo.method.credit import Outcomes, normalization
from verl_atpo.method.scheme import Credit, find_scheme
from verl_atpo.rollout.rows import LeafOutput, leaf_outputs
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.recording import Generation, Turn
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
        selected = rng.choices([node.index for node in tree.nodes if not node.is_leaf], k=rng.randint(1, 3))
        for index in selected:
            chain(ROOT if index == ROOT else tree.nodes[index].parent, round)
    return tree


def scaled(rewards: Sequence[float], normalize: Normalize) -> list[float]:
    """The rewards of one tree's leaves on the common scale."""
    offset, factor = normalization(Outcomes.of(rewards), normalize)
    return [(reward - offset) * factor for reward in rewards]


def credit_of(tree: TurnTree | GrownTree, settings: CreditConfig | None = None) -> Credit:
    """The credit of a tree under settings of ``algorithm.atpo.credit``."""
    scheme = find_scheme(AtpoConfig(credit=settings or CreditConfig()))
    if isinstance(tree, GrownTree):
        return scheme.credit(tree.tree, tree.paths, tree.answers)
    return scheme.credit(tree)


def tree_advantages(tree: TurnTree, settings: CreditConfig) -> list[float | None]:
    """What the estimator is to give the tokens of each node's turn, by index."""
    return credit_of(tree, settings).advantages


def outputs_of(grown: GrownTree, settings: CreditConfig | None = None, row_means: bool = False) -> Iterator[LeafOutput]:
    """The rows of a grown tree."""
    settings = settings or CreditConfig()
    return leaf_outputs(grown, credit_of(grown, settings), settings.shared_turns, row_means)


@dataclasses.dataclass(frozen=True)
class Row:
    """One leaf's response: ``turn_of`` names the node that sampled each token, ``None`` for observation tokens."""

    path: list[int]
    spans: list[tuple[int, int]]
    turn_of: list[int | None]
    rewards: list[float]


def rows_of(tree: TurnTree, settings: CreditConfig, seed: int = 0) -> list[Row]:
    """One row per leaf, turns and observations of one token among them; a shared turn has the same tokens in each."""
    rng = random.Random(seed)
    sampled = [rng.randint(1, 4) for _ in tree.nodes]
    observed = [rng.randint(1, 3) for _ in tree.nodes]
    credit, rows = credit_of(tree, settings), []
    for leaf, turns, outcome in zip(tree.leaves, credit.rows, credit.outcomes, strict=True):
        path, spans, turn_of = tree.path(leaf), [], list[int | None]()
        for index in path:
            spans.append((len(turn_of), len(turn_of) + sampled[index]))
            turn_of += [index] * sampled[index] + [None] * (0 if index == leaf else observed[index])
        rewards = write_row(turns, spans, outcome, len(turn_of))
        rows.append(Row(path, spans, turn_of + [None] * (len(rewards) - len(turn_of)), rewards))
    return rows


def padded_rows(rows: Sequence[Row], extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and mask of rows, right-padded."""
    width = max(len(row.turn_of) for row in rows) + extra
    rewards = [row.rewards + [0.0] * (width - len(row.rewards)) for row in rows]
    mask = [[turn is not None for turn in row.turn_of] + [False] * (width - len(row.turn_of)) for row in rows]
    return torch.tensor(rewards), torch.tensor(mask).long()


def even_rows(tree: TurnTree, settings: CreditConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Token-level rewards and mask, a row a leaf: turns of two tokens, an observation of one between them."""
    credit, rows, masks = credit_of(tree, settings), [], []
    for leaf, turns, outcome in zip(tree.leaves, credit.rows, credit.outcomes, strict=True):
        length = 3 * len(tree.path(leaf)) - 1
        row = write_row(turns, [(start, start + 2) for start in range(0, length, 3)], outcome, length)
        rows.append(torch.tensor(row))
        masks.append(torch.tensor([1, 1, 0] * len(row))[:length])
    rewards, mask = (torch.nn.utils.rnn.pad_sequence(each, batch_first=True) for each in (rows, masks))
    return rewards, torch.nn.functional.pad(mask, (0, rewards.shape[1] - mask.shape[1]))


def random_talk(seed: int, words: int, rewards: Sequence[float] = REWARDS, longest: int = 5) -> TurnTree:
    """Chains and expansions whose turns say one of ``words`` words; contexts repeat the more, the fewer there are.

    What is read after a turn follows from what was said, so that copies of a turn lead to one context.
    """
    rng = random.Random(seed)
    tree = TurnTree()

    def grow(parent: int, round: int) -> None:
        ended = False
        while not ended:
            path = tree.path(parent)
            ended = len(path) + 1 == longest or rng.random() < 0.3
            heard = [tree.turn(path[-1]).token_ids[0]] if path else [0]
            token_ids = [1 + rng.randrange(words)]
            turn = Turn((Generation(0, heard, SimpleNamespace(token_ids=token_ids, log_probs=[-1.0])),))
            reward = rng.choice(rewards) if ended else None
            parent = tree.add_turn(parent, mean_nll=1.0, is_leaf=ended, reward=reward, round=round, turn=turn).index

    for _ in range(rng.randint(1, 5)):
        grow(ROOT, 0)
    for round in range(1, rng.randint(0, 4) + 1):
        grow(rng.choice([node.index for node in tree.nodes if not node.is_leaf]), round)
    return tree
