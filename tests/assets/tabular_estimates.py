"""Estimates of the prompt's value and of the gradient by trees that are grown and weighted in several ways."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.assets.tabular_agent import LOGITS, OUTCOMES, PARAMETERS, Context, exact, probabilities, score
from verl_atpo.config import (
    AdvantageMode,
    AtpoConfig,
    Backup,
    Contexts,
    CreditConfig,
    ExpansionConfig,
    Normalize,
    Penalty,
    Schedule,
)
from verl_atpo.method.credit import node_values
from verl_atpo.method.expansion import select_turns
from verl_atpo.method.scheme import find_scheme
from verl_atpo.schemes.split import split_advantages, split_weights
from verl_atpo.startup.presets import TREE
from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, TurnTree

POLICY = {context: probabilities(context) for context in LOGITS}
SCORES = {(context, turn): score(context, turn) for context, turn in PARAMETERS}
SAID = {what: Turn((Generation(0, [], SimpleNamespace(token_ids=[number])),)) for number, what in enumerate(PARAMETERS)}
"""A turn of one token; turns tell what they answer, so there are no observations."""


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A grown tree.

    Attributes:
        tree: as the package's strategies see it.
        paths: the turns from the prompt to every node, by index.
    """

    tree: TurnTree
    paths: list[Context]


def sample(expansion: ExpansionConfig, rng: random.Random) -> Sampled:
    """Grow one tree as :class:`verl_atpo.rollout.grower.TreeGrower` does, without its asynchrony."""
    grown = Sampled(TurnTree(), [()])
    for _ in range(expansion.initial_chains):
        _branch(grown, ROOT, 0, rng)
    for round in range(1, expansion.rounds + 1):
        for pick in select_turns(grown.tree, expansion.branches_per_round, expansion, rng):
            _branch(grown, ROOT if pick == ROOT else grown.tree.nodes[pick].parent, round, rng)
    return grown


def _branch(grown: Sampled, parent: int, round: int, rng: random.Random) -> None:
    ended = False
    while not ended:
        context = grown.paths[parent]
        policy = POLICY[context]
        (turn,) = rng.choices(list(policy), list(policy.values()))
        path = (*context, turn)
        ended = path not in LOGITS
        reward = float(rng.random() < OUTCOMES[path]) if ended else None
        nll = -math.log(policy[turn])
        node = grown.tree.add_turn(
            parent, mean_nll=nll, is_leaf=ended, reward=reward, round=round, turn=SAID[context, turn]
        )
        parent = node.index
        grown.paths.append(path)


Estimate = tuple[float, np.ndarray]
"""Value of the prompt, and gradient."""


def split(grown: Sampled) -> Estimate:
    """Split weights, baselines of the other strata."""
    values = [value or 0.0 for value in node_values(grown.tree, Backup.CHILD_MEAN)]
    weights, advantages = split_weights(grown.tree), split_advantages(grown.tree, values)
    value = math.fsum(weights[first] * values[first] for first in grown.tree.nodes[ROOT].children)
    return value, summed(grown, [w * a for w, a in zip(weights, advantages, strict=True)])


def per_leaf(credit: CreditConfig) -> Callable[[Sampled], Estimate]:
    """Train each row's whole path with the advantages of its turns, without the scale of the z-score."""
    scheme = find_scheme(AtpoConfig(credit=dataclasses.replace(credit, normalize=Normalize.CENTER)))

    def estimate(grown: Sampled) -> Estimate:
        tree = grown.tree
        advantages = [advantage or 0.0 for advantage in scheme.credit(tree).advantages]
        rows = [int(node.is_leaf) for node in tree.nodes]
        for node in reversed(tree.nodes[1:]):
            rows[node.parent] += rows[node.index]
        mean = math.fsum(tree.nodes[leaf].reward or 0.0 for leaf in tree.leaves) / rows[ROOT]
        return mean, summed(grown, [count / rows[ROOT] * a for count, a in zip(rows, advantages, strict=True)])

    return estimate


def split_with_own_baseline(grown: Sampled) -> Estimate:
    """Split weights, but the baseline is the value of the whole tree, the turn's own outcome included."""
    weights = split_weights(grown.tree)
    values = [value or 0.0 for value in node_values(grown.tree, Backup.CHILD_MEAN)]
    value = math.fsum(weights[first] * values[first] for first in grown.tree.nodes[ROOT].children)
    return value, summed(grown, [w * (v - value) for w, v in zip(weights, values, strict=True)])


def split_with_softmax(grown: Sampled) -> Estimate:
    """Split weights, but a value is the softmax-weighted mean over the turns below it."""
    weights = split_weights(grown.tree)
    values = [value or 0.0 for value in node_values(grown.tree, Backup.CHILD_SOFTMAX)]
    means = [value or 0.0 for value in node_values(grown.tree, Backup.CHILD_MEAN)]
    baselines = [mean - advantage for mean, advantage in zip(means, split_advantages(grown.tree, means), strict=True)]
    value = math.fsum(weights[first] * values[first] for first in grown.tree.nodes[ROOT].children)
    return value, summed(grown, [w * (v - b) for w, v, b in zip(weights, values, baselines, strict=True)])


def without_a_pool(grown: Sampled) -> Estimate:
    """Weights split at the prompt as everywhere else, though how many chains start there depends on the chains."""
    tree = grown.tree
    values = [value or 0.0 for value in node_values(tree, Backup.CHILD_MEAN)]
    weights = [0.0] * len(tree.nodes)
    weights[ROOT] = 1.0
    for node in tree.nodes:
        for child in node.children:
            weights[child] = weights[node.index] / len(node.children)
    firsts = tree.nodes[ROOT].children
    total = math.fsum(values[first] for first in firsts)
    baselines = [0.0] * len(tree.nodes)
    for node in tree.nodes[1:]:
        alone = (total - values[node.index]) / max(len(firsts) - 1, 1)
        baselines[node.index] = alone if node.parent == ROOT else baselines[node.parent]
    return values[ROOT], summed(grown, [w * (v - b) for w, v, b in zip(weights, values, baselines, strict=True)])


def summed(grown: Sampled, factors: list[float]) -> np.ndarray:
    gradient = np.zeros(len(PARAMETERS))
    for path, factor in zip(grown.paths[1:], factors[1:], strict=True):
        gradient += factor * SCORES[path[:-1], path[-1]]
    return gradient


OTHERS, NLL, RANDOM = "other_chains", "entropy", "random"
SUM = CreditConfig(contexts=Contexts.MERGED, advantage=AdvantageMode.DIFF_LOCALGLOBAL)
"""The sum of the differences to the context and to the prompt, in merged contexts."""
PAPER = CreditConfig()
"""The paper's credit."""


def _grown(strategy: str, counts: Penalty = Penalty.EXPANSIONS, rounds: int = 2) -> ExpansionConfig:
    return ExpansionConfig(
        initial_chains=8 if rounds else 16,
        branches_per_round=4,
        rounds=rounds,
        strategy=strategy,
        penalty_counts=counts,
        schedule=Schedule.ROUNDS,
    )


ARMS: dict[str, tuple[ExpansionConfig, Callable[[Sampled], Estimate]]] = {
    "16 chains": (_grown(NLL, rounds=0), split),
    "unbiased": (_grown(OTHERS), split),
    "turns selected by their own NLL": (_grown(NLL), split),
    "turns selected by chance": (_grown(RANDOM), split),
    "fresh chains without a pool": (_grown(OTHERS), without_a_pool),
    "a shared turn trained once per leaf": (
        _grown(OTHERS),
        per_leaf(dataclasses.replace(PAPER, backup=Backup.CHILD_MEAN)),
    ),
    "softmax backup": (_grown(OTHERS), split_with_softmax),
    "a turn's own outcome in its baseline": (_grown(OTHERS), split_with_own_baseline),
    "16 chains, the paper's credit": (_grown(NLL, rounds=0), per_leaf(PAPER)),
    "16 chains, merged contexts": (_grown(NLL, rounds=0), per_leaf(SUM)),
    "16 chains, merged contexts, means for softmax": (
        _grown(NLL, rounds=0),
        per_leaf(dataclasses.replace(SUM, backup=Backup.CHILD_MEAN)),
    ),
    "tree, with 16 leaves": (_grown(NLL), per_leaf(SUM)),
    "tree, with 16 leaves, contexts apart": (_grown(NLL), per_leaf(PAPER)),
    "tree": (dataclasses.replace(TREE.expansion, schedule=Schedule.ROUNDS), per_leaf(SUM)),
    "paper, with 16 leaves": (_grown(NLL, Penalty.SIBLINGS), per_leaf(PAPER)),
}
"""Arms: `unbiased` and every single deviation from it, and the presets."""


def measure(arm: str, trees: int, seed: int) -> dict[str, Any]:
    """Average the estimates of an arm's trees.

    Returns:
        ``value`` and its standard ``error``; ``cosine`` of the mean gradient with the exact one; ``scale``, the mean
        gradient's projection on the exact one over its length; ``worst``, the largest deviation of a component in
        standard errors; ``noise``, the total variance of one tree's gradient over the square of that projection, so
        that an estimate twice as long is not the noisier for it.
    """
    expansion, estimate = ARMS[arm]
    rng = random.Random(f"{arm} {seed}")
    values, gradients = zip(*(estimate(sample(expansion, rng)) for _ in range(trees)), strict=True)
    _, truth = exact()
    estimates = np.array(gradients)
    mean, error = estimates.mean(axis=0), estimates.std(axis=0, ddof=1) / trees**0.5
    along = mean @ truth / np.linalg.norm(truth)
    return {
        "arm": arm,
        "value": float(np.mean(values)),
        "error": float(np.std(values, ddof=1) / trees**0.5),
        "cosine": float(along / np.linalg.norm(mean)),
        "scale": float(along / np.linalg.norm(truth)),
        "worst": float(np.max(np.abs(mean - truth) / error)),
        "noise": float(estimates.var(axis=0, ddof=1).sum() / along**2),
    }
