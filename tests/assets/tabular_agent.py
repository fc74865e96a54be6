"""A tabular agent whose gradient is known: a few contexts, a softmax over turns in each, an outcome for every ending.

Turns are single tokens, so a turn's mean NLL is -log of its probability. The table holds what trips a biased tree: long
trajectories that do better than short ones, rare turns that do worse, contexts that are certain and ones that are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

Context = tuple[str, ...]

LOGITS: dict[Context, dict[str, float]] = {
    (): {"answer": 0.6, "search": 1.2, "browse": -0.9},
    ("search",): {"answer": 0.2, "search": 0.4, "browse": -1.2},
    ("browse",): {"answer": 1.5, "search": -0.5},
    ("search", "search"): {"answer": 0.0, "other": 1.0},
    ("search", "browse"): {"answer": 0.3, "other": 0.3},
    ("browse", "search"): {"answer": -0.8, "other": 0.8},
}
"""Context -> turn -> logit; a turn that leads to no context of the table ends its trajectory."""

OUTCOMES: dict[Context, float] = {
    ("answer",): 0.1,
    ("search", "answer"): 0.2,
    ("browse", "answer"): 0.0,
    ("search", "search", "answer"): 0.9,
    ("search", "search", "other"): 0.25,
    ("search", "browse", "answer"): 0.6,
    ("search", "browse", "other"): 0.0,
    ("browse", "search", "answer"): 1.0,
    ("browse", "search", "other"): 0.1,
}
"""Probability of success of every whole trajectory."""

PARAMETERS: list[tuple[Context, str]] = [(context, turn) for context, turns in LOGITS.items() for turn in turns]
"""The logits in a row: components of a gradient."""


def probabilities(context: Context) -> dict[str, float]:
    """Probabilities of the turns in a context."""
    weights = {turn: math.exp(logit) for turn, logit in LOGITS[context].items()}
    total = sum(weights.values())
    return {turn: weight / total for turn, weight in weights.items()}


def score(context: Context, turn: str) -> np.ndarray:
    """Gradient of log pi(turn | context) over all parameters."""
    policy = probabilities(context)
    return np.array([(turn == other) - policy[other] if at == context else 0.0 for at, other in PARAMETERS])


def endings(context: Context = (), reached: float = 1.0) -> Iterator[tuple[Context, float]]:
    """Every whole trajectory below a context and its probability."""
    for turn, probability in probabilities(context).items():
        path = (*context, turn)
        if path in LOGITS:
            yield from endings(path, reached * probability)
        else:
            yield path, reached * probability


def exact() -> tuple[float, np.ndarray]:
    """Expected outcome and its gradient, by enumeration."""
    value, gradient = 0.0, np.zeros(len(PARAMETERS))
    for path, probability in endings():
        value += probability * OUTCOMES[path]
        scores = [score(path[:depth], turn) for depth, turn in enumerate(path)]
        gradient += probability * OUTCOMES[path] * np.sum(scores, axis=0)
    return value, gradient
