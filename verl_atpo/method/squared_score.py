"""Squared score of a turn's tokens, from their log-probs: the size of its gradient. Pure Python.

The score of a token is the gradient of its log-probability. By the logits it is 1 - p for the sampled token, and minus
the probabilities of the others, whose squares sum up to at most (1 - p) ** 2. So (1 - p) ** 2 is its square, up to a
factor of 2. Surprising turns have the largest scores, and with an advantage of noise they move the policy most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from verl_atpo.tree.recording import Turn
from verl_atpo.tree.tree import TurnTree


def squared_score(turn: Turn) -> float:
    """Sum (1 - p) ** 2 over the sampled tokens of a turn.

    Examples:
        >>> from types import SimpleNamespace
        >>> from verl_atpo.tree.recording import Generation
        >>> output = SimpleNamespace(token_ids=[5, 6], log_probs=[math.log(0.5), 0.0])
        >>> squared_score(Turn((Generation(0, [1], output),)))
        0.25
    """
    return math.fsum((1.0 - math.exp(min(0.0, each))) ** 2 for each in _log_probs(turn))


def _log_probs(turn: Turn) -> Iterator[float]:
    for generation in turn.generations:
        yield from generation.output.log_probs or []


def muting(tree: TurnTree, most: float) -> list[float]:
    """Compute the factor of every turn's advantage, by node: 1, but smaller where the squared score is above ``most``.

    The product of factor and squared score is at most ``most``, so that one surprising turn cannot outweigh the others.
    """
    factors = [1.0]
    for node in tree.nodes[1:]:
        square = squared_score(tree.turn(node.index))
        factors.append(min(1.0, most / square) if square else 1.0)
    return factors
