"""Information gains of turns, their z-scores and discounted sums (A²TGPO, arXiv 2605.06200). Pure Python.

L(c) is the mean log-probability of the gold answer's tokens, nats/token, in a context c followed by a sentence that
says that there is enough information to answer. A turn's *information gain* is L after its observation minus L before
the turn. Then:

1. z: gains are z-scored against those of the same prompt's turns of the same number (1st, 2nd, ...);
2. D_k = (z_k + gamma z_(k+1) + ...) / sqrt(number of these terms), to the end of the trajectory;
3. advantage = z-score of the trajectory's outcome + alpha D_k; of the last turn, which nothing follows, the outcome's;
4. the clip range of turn k is (1 + beta (2 sigmoid(z_k) - 1)) times the usual one.

In a tree a turn is one sample however many leaves it has, so step 1 counts it once: else contexts that were expanded
would weigh more in the mean, and shrink the deviation. Steps 2 and 3 are of a trajectory, so a shared turn has one
advantage per row: its gradient is that of their mean, as with ``backup=leaf_mean``.

``None`` stands for what is not known. It is left out of sums and of the number of terms, and never counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from verl_atpo.config import Normalize
from verl_atpo.method.channel import TurnCredit
from verl_atpo.method.credit import Outcomes, normalization
from verl_atpo.schemes.a2tgpo.settings import InformationGainConfig
from verl_atpo.tree.tree import TurnTree


def information_gains(tree: TurnTree, log_probs: Sequence[float | None]) -> list[float | None]:
    """Compute the information gain of every node, by index, nats/token.

    Where an environment answered a turn in several ways, its gain is the mean over what was sampled after it.

    Args:
        tree: the tree.
        log_probs: by index, L of the context that each node was sampled in; anything for the root.

    Returns:
        ``None`` for the root, for turns that nothing follows, and where L before or after is not known.
    """
    gains: list[float | None] = [None]
    for node in tree.nodes[1:]:
        before = log_probs[node.index]
        after = [known for child in node.children if (known := log_probs[child]) is not None]
        gains.append(math.fsum(after) / len(after) - before if after and before is not None else None)
    return gains


def z_scores(tree: TurnTree, gains: Sequence[float | None], rows: Sequence[Sequence[int]]) -> list[float | None]:
    """Compute gains as z-scores among the turns of the same number, by index; every node counts once.

    Over the population's deviation. A turn alone with its number, or with gains that are all equal, has 0: there is
    nothing to compare.

    Args:
        tree: the tree.
        gains: information gain per node.
        rows: the nodes of each trajectory; turns that are in none have no score.
    """
    scores: list[float | None] = [None] * len(tree.nodes)
    for number in range(max(map(len, rows), default=0)):
        peers = sorted({row[number] for row in rows if len(row) > number})
        known = {node: gain for node in peers if (gain := gains[node]) is not None}
        if known:
            offset, factor = normalization(Outcomes.of(list(known.values())), Normalize.ZSCORE)
            for node, gain in known.items():
                scores[node] = (gain - offset) * factor
    return scores


def discounted(scores: Sequence[float | None], discount: float) -> list[float]:
    """Compute D of every turn of one trajectory; 0 where no score is known from there on.

    Examples:
        >>> discounted([1.0, -1.0, None], 0.5)  # (1 - 0.5) / sqrt(2); -1 / sqrt(1); nothing
        [0.35355339059327373, -1.0, 0.0]
    """
    sums, total, terms = [0.0] * len(scores), 0.0, 0
    for turn in range(len(scores) - 1, -1, -1):
        score = scores[turn]
        total *= discount
        if score is not None:
            total, terms = total + score, terms + 1
        sums[turn] = total / math.sqrt(terms) if terms else 0.0
    return sums


def clip_change(score: float | None, strength: float) -> float:
    """Compute the relative change of a turn's clip range from its z-score, between ``-strength`` and ``strength``."""
    return 0.0 if score is None else strength * math.tanh(score / 2)  # 2 sigmoid(z) - 1


def row_credits(
    tree: TurnTree, log_probs: Sequence[float | None], rows: Sequence[Sequence[int]], settings: InformationGainConfig
) -> list[list[TurnCredit]]:
    """Compute advantage alpha D and change of the clip range of every turn of every trajectory.

    Args:
        tree: the tree.
        log_probs: as :func:`information_gains` takes them.
        rows: the nodes of each trajectory, first to last; its last turn gets nothing, whatever is known.
        settings: alpha, gamma and beta.
    """
    scores = z_scores(tree, information_gains(tree, log_probs), [row[:-1] for row in rows])
    credits = []
    for row in rows:
        own = [scores[node] for node in row[:-1]]
        turns = [
            TurnCredit(settings.weight * each, clip_change(score, settings.clip))
            for each, score in zip(discounted(own, settings.discount), own, strict=True)
        ]
        credits.append([*turns, TurnCredit(0.0)])
    return credits


def mean_over_rows(rows: Sequence[Sequence[int]], of_rows: Sequence[Sequence[float]], nodes: int) -> list[float | None]:
    """Average the numbers of each of ``nodes`` nodes over rows, by index; ``None`` for those in no row."""
    found: list[list[float]] = [[] for _ in range(nodes)]
    for row, values in zip(rows, of_rows, strict=True):
        for node, value in zip(row, values, strict=True):
            found[node].append(value)
    return [math.fsum(values) / len(values) if values else None for values in found]
