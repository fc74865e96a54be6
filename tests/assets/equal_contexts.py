"""Chains of turns with equal contexts."""

from __future__ import annotations

from types import SimpleNamespace

from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, TurnTree

PROMPT = [1]
X, Y, Z = [10], [11], [12]


def say(tree: TurnTree, parent: int, observed: list[int], tokens: list[int], dropped: int = 0, **node: object) -> int:
    """Add a turn that says ``tokens`` after ``observed``."""
    turn = Turn((Generation(dropped, observed, SimpleNamespace(token_ids=tokens)),))
    return tree.add_turn(parent, turn=turn, **{"mean_nll": 0.0, **node}).index


def chain(tree: TurnTree, *turns: tuple[list[int], list[int]], reward: float | None, **node: object) -> list[int]:
    """A chain of (observation, tokens); its nodes."""
    found = [ROOT]
    for number, (observed, tokens) in enumerate(turns, start=1):
        last = {"is_leaf": True, "reward": reward} if number == len(turns) else {}
        found.append(say(tree, found[-1], observed, tokens, **last, **node))
    return found[1:]


def example() -> TurnTree:
    """Four chains; the first three begin alike, and the third read something else (a tool that draws lots).

    1 X -[5]-> 2 Y: 1.0    3 X -[5]-> 4 Z: 0.0    5 X -[6]-> 6 Y: 1.0    7 Z: 0.0
    """
    tree = TurnTree()
    chain(tree, (PROMPT, X), ([5], Y), reward=1.0)
    chain(tree, (PROMPT, X), ([5], Z), reward=0.0)
    chain(tree, (PROMPT, X), ([6], Y), reward=1.0)
    chain(tree, (PROMPT, Z), reward=0.0)
    return tree
