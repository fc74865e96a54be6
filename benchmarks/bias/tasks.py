"""Three kinds of tabular task with an exact gradient: outcomes decided early, evenly or late.

An agent takes four to six turns. Every turn is an action in a context, which is the actions before it; a table of
random logits is the policy. One action ends the trajectory. It succeeds if the sum of random effects of its turns is
above a threshold, so all of it is known; what a kind sets is how large the effects of early and of late turns are.

A turn has one to three tokens, which are new with a given probability. So contexts that are equal as states repeat as
tokens at any chosen rate, and the gradient stays the same.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random

import numpy as np

TURNS, FIRST_END, ACTIONS, ENDS = 6, 4, 4, 3
"""Most turns, the first one that may end a trajectory, actions, and the one that ends it."""

KINDS = {
    "early": (4.0, 2.0, 1.0, 0.5, 0.25, 0.125),
    "evenly": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "late": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
}
"""Size of the effect of each turn."""
SUCCESS = 0.35
"""Share of success of a uniform policy, about."""

History = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A task and the policy whose gradient is sought.

    Attributes:
        contexts: number of each context.
        policy: by context, probabilities of its actions.
        outcome: by whole trajectory.
        value: expected outcome by context, and by whole trajectory.
        gradient: (contexts, actions) of the expected outcome, by logit.
    """

    contexts: dict[History, int]
    policy: dict[History, list[float]]
    outcome: dict[History, float]
    value: dict[History, float]
    gradient: np.ndarray


def ends(history: History) -> bool:
    """Return whether these actions are a complete trajectory."""
    return len(history) == TURNS or (len(history) >= FIRST_END and history[-1] == ENDS)


def actions(history: History) -> range:
    """List the actions in a context."""
    return range(ACTIONS if len(history) + 1 >= FIRST_END else ENDS)


@functools.cache
def table(kind: str, seed: int) -> Table:
    """Random logits and effects, and by enumeration what follows from them."""
    rng = random.Random(f"{kind} {seed}")
    inner = [history for length in range(TURNS) for history in itertools.product(range(ENDS), repeat=length)]
    contexts = {history: number for number, history in enumerate(inner)}
    policy, sums = {}, {(): 0.0}
    for history in inner:
        weights = np.exp([rng.gauss(0, 1) for _ in actions(history)])
        policy[history] = list(weights / weights.sum())
        for action in actions(history):
            after = (*history, action)
            sizes = np.array(KINDS[kind][len(history) :])
            size = np.sqrt((sizes**2).sum()) if ends(after) else sizes[0]
            sums[after] = sums[history] + size * rng.gauss(0, 1)
    whole = [history for history in sums if ends(history)]
    threshold = np.quantile([sums[history] for history in whole], 1 - SUCCESS)
    outcome = {history: float(sums[history] > threshold) for history in whole}
    value, gradient = dict(outcome), np.zeros((len(inner), ACTIONS))
    for history in reversed(inner):
        value[history] = sum(p * value[(*history, a)] for a, p in zip(actions(history), policy[history], strict=True))
    reached = {(): 1.0}
    for history in inner:
        for action, probability in zip(actions(history), policy[history], strict=True):
            after = (*history, action)
            reached[after] = reached[history] * probability
            gradient[contexts[history], action] = reached[after] * (value[after] - value[history])
    return Table(contexts, policy, outcome, value, gradient)
