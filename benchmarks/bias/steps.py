"""Comparison of one tree's gradient with the exact one, by ways to grow the tree, credit turns and add them up."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np

from benchmarks.bias.tasks import History, Table, actions, ends
from verl_atpo.config import (
    AdvantageMode,
    AtpoConfig,
    Backup,
    Contexts,
    CreditConfig,
    ExpansionConfig,
    Normalize,
    Schedule,
)
from verl_atpo.method.expansion import select_turns
from verl_atpo.method.scheme import find_scheme
from verl_atpo.method.squared_score import muting, squared_score
from verl_atpo.schemes.shrunk import estimates
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, TurnTree


@dataclasses.dataclass
class Sampled:
    """A grown tree.

    Attributes:
        table: its task.
        tree: as the package sees it.
        histories: the actions up to every node.
        tokens: sampled.
    """

    table: Table
    tree: TurnTree
    histories: list[History]
    tokens: int = 0


def length(action: int) -> int:
    """Tokens of a turn."""
    return 1 + action % 3


def sample(
    table: Table, expansion: ExpansionConfig, repeats: float, undecided: Sequence[float], rng: random.Random
) -> Sampled:
    """Grow one tree in rounds.

    Args:
        table: the task.
        expansion: shape and strategy.
        repeats: probability that a turn says its action in the words that others say it in.
        undecided: estimate from earlier trees of the task.
        rng: source of randomness.
    """
    grown = Sampled(table, TurnTree(undecided), [()])
    for _ in range(expansion.initial_chains):
        _trajectory(grown, ROOT, 0, repeats, rng)
    for round in range(1, expansion.rounds + 1):
        for pick in select_turns(grown.tree, expansion.branches_per_round, expansion, rng):
            _trajectory(grown, ROOT if pick == ROOT else grown.tree.nodes[pick].parent, round, repeats, rng)
    return grown


def _trajectory(grown: Sampled, parent: int, round: int, repeats: float, rng: random.Random) -> None:
    ended = False
    while not ended:
        history = grown.histories[parent]
        policy = grown.table.policy[history]
        (action,) = rng.choices(actions(history), policy)
        after = (*history, action)
        ended = ends(after)
        words = 0 if rng.random() < repeats else rng.randrange(1, 10**9)
        token_ids = [10 * words + action, *[0] * (length(action) - 1)]
        nll = -math.log(policy[action])
        output = SimpleNamespace(token_ids=token_ids, log_probs=[-nll, *[0.0] * (length(action) - 1)])
        parent = grown.tree.add_turn(
            parent,
            mean_nll=nll / len(token_ids),
            is_leaf=ended,
            reward=grown.table.outcome[after] if ended else None,
            round=round,
            turn=Turn((Generation(0, [], output),)),
        ).index
        grown.histories.append(after)
        grown.tokens += len(token_ids)


Credit = Callable[[Sampled], Sequence[float | None]]
"""Advantage of every node's turn."""


def by_settings(credit: CreditConfig) -> Credit:
    """The package's credit of these settings, without the scale that differs from tree to tree."""
    centred = dataclasses.replace(credit, normalize=Normalize.CENTER)
    scheme = find_scheme(AtpoConfig(credit=centred))
    return lambda grown: scheme.credit(grown.tree).advantages


def trajectory(grown: Sampled) -> Sequence[float | None]:
    """GRPO's: outcome minus mean outcome; of a turn that several trajectories share the mean over them."""
    return _OUTCOME(grown)


def shrunk(grown: Sampled, contexts: Contexts = Contexts.MERGED) -> Sequence[float | None]:
    """Shrunk baselines."""
    tree = grown.tree
    outcome = [node.reward for node in tree.nodes]
    return estimates(tree, group_contexts(tree, contexts), tree.undecided, outcome).advantages


def shrunk_by_score(grown: Sampled) -> Sequence[float | None]:
    """Shrunk baselines, in which turns of one context count by their squared scores."""
    tree = grown.tree
    outcome = [node.reward for node in tree.nodes]
    squares = [0.0, *(max(1e-3, squared_score(tree.turn(node.index))) for node in tree.nodes[1:])]
    grouping = group_contexts(tree, Contexts.MERGED)
    usual = sum(squares) / (len(squares) - 1)
    weights = [square / usual for square in squares]
    return estimates(tree, grouping, tree.undecided, outcome, weights=weights).advantages


def muted(credit: Credit, most: float = 0.5) -> Credit:
    """Multiply the advantage of surprising turns by min(1, most / sum of (1 - p) ** 2 over its tokens)."""

    def less(grown: Sampled) -> list[float | None]:
        factors = muting(grown.tree, most)
        return [(each or 0.0) * factor for each, factor in zip(credit(grown), factors, strict=True)]

    return less


def true_value(grown: Sampled) -> list[float | None]:
    """Credit by a perfect critic: mean outcome below the turn, minus the exact value of its context."""
    values = trajectory_values(grown.tree)
    own = zip(values[1:], grown.histories[1:], strict=True)
    return [None, *(value - grown.table.value[history[:-1]] for value, history in own)]


def trajectory_values(tree: TurnTree) -> list[float]:
    """Mean outcome of the leaves below every node."""
    count, total = [0] * len(tree.nodes), [0.0] * len(tree.nodes)
    for node in reversed(tree.nodes):
        if node.reward is not None:
            count[node.index], total[node.index] = 1, node.reward
        if node.index != ROOT:
            count[node.parent] += count[node.index]
            total[node.parent] += total[node.index]
    return [each / number for each, number in zip(total, count, strict=True)]


_OUTCOME = by_settings(CreditConfig(backup=Backup.LEAF_MEAN))
SUM = CreditConfig(contexts=Contexts.MERGED, advantage=AdvantageMode.DIFF_LOCALGLOBAL)
ONE_BASELINE = CreditConfig(contexts=Contexts.MERGED, advantage=AdvantageMode.DIFF_CONTEXT)
PAPER = CreditConfig()

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "split")
"""Rows added up token by token; each row divided by its length; turns of one context sharing the weight of one."""


def gradient(grown: Sampled, advantages: Sequence[float | None], aggregation: str) -> np.ndarray:
    """(contexts, actions) ascent direction of the tree's rows."""
    tree, table = grown.tree, grown.table
    weights = _split(tree) if aggregation == "split" else _in_rows(tree, aggregation == "seq-mean-token-mean")
    found = np.zeros_like(table.gradient)
    for history, weight, advantage in zip(grown.histories[1:], weights[1:], list(advantages)[1:], strict=True):
        if advantage:
            before = history[:-1]
            row, policy = table.contexts[before], table.policy[before]
            found[row, : len(policy)] -= weight * advantage * np.array(policy)
            found[row, history[-1]] += weight * advantage
    return found


def _in_rows(tree: TurnTree, divided: bool) -> list[float]:
    """Count how often rows train each turn, each row counting once or divided by its tokens."""
    weights = [0.0] * len(tree.nodes)
    rows = [tree.path(leaf) for leaf in tree.leaves]
    tokens = [sum(len(tree.turn(node).token_ids) for node in row) for row in rows]
    for row, length in zip(rows, tokens, strict=True):
        for node in row:
            weights[node] += 1.0 / length / len(rows) if divided else 1.0 / sum(tokens)
    return weights


def _split(tree: TurnTree) -> list[float]:
    """Turns sampled after one node share its weight."""
    weights = [1.0] + [0.0] * (len(tree.nodes) - 1)
    for node in tree.nodes:
        for child in node.children:
            weights[child] = weights[node.index] / len(node.children)
    return weights


@dataclasses.dataclass
class Direction:
    """Comparison of the gradients of many trees with the exact one."""

    gradients: list[np.ndarray] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)

    def add(self, found: np.ndarray, tokens: int) -> None:
        """Take one tree's gradient, and the tokens it sampled."""
        self.gradients.append(found)
        self.tokens.append(tokens)

    def cosines(self, truth: np.ndarray) -> np.ndarray:
        """Compute the cosine of every tree's gradient with the exact one; 0 for a gradient of 0."""
        drawn = np.array(self.gradients).reshape(len(self.gradients), -1)
        lengths = np.linalg.norm(drawn, axis=1)
        along = drawn @ truth.ravel() / np.linalg.norm(truth)
        return np.divide(along, lengths, out=np.zeros_like(along), where=lengths > 0)

    def summary(self, truth: np.ndarray) -> dict[str, float]:
        """``cosine`` of one tree's gradient and of their ``mean``; ``noise``: variance over signal, times tokens."""
        drawn, exact = np.array(self.gradients).reshape(len(self.gradients), -1), truth.ravel()
        cosines = self.cosines(truth)
        mean = drawn.mean(axis=0)
        signal = mean @ exact / np.linalg.norm(exact)
        tokens = float(np.mean(self.tokens))
        return {
            "cosine": float(cosines.mean()),
            "error": float(cosines.std(ddof=1) / len(cosines) ** 0.5),
            "mean": float(signal / np.linalg.norm(mean)),
            "noise": float(drawn.var(axis=0, ddof=1).sum() / signal**2 * tokens),
            "tokens": tokens,
        }


def _shape(chains: int, expansions: int, strategy: str = "entropy") -> ExpansionConfig:
    rounds = 2 if expansions else 0
    each = expansions // 2 if expansions else 1
    return ExpansionConfig(chains, each, rounds, strategy=strategy, schedule=Schedule.ROUNDS)


SHAPES = {
    "16 chains": _shape(16, 0),
    "12 chains": _shape(12, 0),
    "6 + 6 by entropy": _shape(6, 6),
    "6 + 6 by chance": _shape(6, 6, "random"),
    "6 + 6 by noise": _shape(6, 6, "noise"),
    "8 + 8 by noise": _shape(8, 8, "noise"),
}
CREDITS: dict[str, Credit] = {
    "trajectory": trajectory,
    "paper": by_settings(PAPER),
    "local + global": by_settings(SUM),
    "one baseline": by_settings(ONE_BASELINE),
    "shrunk": shrunk,
    "shrunk, by score": shrunk_by_score,
    "shrunk, muted": muted(shrunk),
    "trajectory, muted": muted(trajectory),
    "true values": true_value,
}
