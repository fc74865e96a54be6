"""Selection of turns to re-sample (paper: entropy-guided tree expansion). Pure Python.

Candidates are the non-leaf nodes, the root included, in breadth-first order. Selecting a turn re-samples it from the
context it was sampled from, which adds a sibling; selecting the root starts a fresh chain.

A strategy orders the candidates, best first. A new one is a function under a name::

    @register_strategy("deepest")
    def deepest(tree, candidates, config, rng):
        return sorted(candidates, key=tree.depth, reverse=True)
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from verl_atpo.config import ROOT_KEY, ConfigError, Contexts, ExpansionConfig, Penalty
from verl_atpo.method.noise import relative_noise
from verl_atpo.settings import did_you_mean
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.tree import ROOT, TurnTree

Strategy: TypeAlias = Callable[[TurnTree, list[int], ExpansionConfig, random.Random], list[int]]

STRATEGIES: dict[str, Strategy] = {}
"""Selection strategies by the name that ``algorithm.atpo.expansion.strategy`` takes."""


def register_strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Register a selection strategy, ``(tree, candidates, config, rng) -> candidates, best first``.

    Raises:
        ValueError: the name is taken by another function.
    """

    def register(strategy: Strategy) -> Strategy:
        if STRATEGIES.setdefault(name, strategy) is not strategy:
            raise ValueError(f"strategy {name!r} is registered already, to {STRATEGIES[name]!r}: choose another name.")
        return strategy

    return register


def strategy_named(name: str) -> Strategy:
    """Return the strategy registered under ``name``.

    Raises:
        ConfigError: nothing is registered under it.
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"{ROOT_KEY}.expansion.strategy={name!r} cannot work: expected one of {', '.join(sorted(STRATEGIES))}."
            f"{did_you_mean(name, STRATEGIES)}"
        )
    return STRATEGIES[name]


def select_turns(
    tree: TurnTree, k: int, config: ExpansionConfig, rng: random.Random, *, least_depth: int = 0
) -> list[int]:
    """Select the ``k`` turns that expansions which start together re-sample, best first.

    Args:
        tree: the current tree; turns of running trajectories are candidates too.
        k: number of expansions to start. With fewer candidates than ``k`` the list is gone through again from the top.
        config: names the strategy and its settings.
        rng: source of randomness of strategies that need one.
        least_depth: turns up to a candidate, itself included, where there are any such: 1 leaves out the root, 2 the
            first turns too, which share nothing but the prompt.

    Returns:
        ``k`` node indices; :data:`~verl_atpo.tree.tree.ROOT` stands for a fresh chain.

    Raises:
        ConfigError: ``config.strategy`` is not registered.
    """
    ordered = strategy_named(config.strategy)(tree, _candidates(tree, least_depth), config, rng)
    return list(itertools.islice(itertools.cycle(ordered), k))


def _candidates(tree: TurnTree, least_depth: int) -> list[int]:
    """List the nodes that may be selected, in the order in which the authors' code walks the tree."""
    inner = [
        index for index in tree.breadth_first if not tree.nodes[index].is_leaf and tree.depth(index) >= least_depth
    ]
    return inner or _candidates(tree, least_depth - 1)


@dataclasses.dataclass(frozen=True)
class Pick:
    """Reason for which a turn was selected for re-sampling.

    Attributes:
        node: the turn; :data:`~verl_atpo.tree.tree.ROOT` stands for a fresh chain.
        score: :func:`uncertainty_score` at the time of the selection, nats/token.
        penalty: subtracted for it, nats/token.
        rank: place among the candidates by score, from 1.
        candidates: how many there were.
    """

    node: int
    score: float
    penalty: float
    rank: int
    candidates: int


def explain(tree: TurnTree, selected: Sequence[int], config: ExpansionConfig, *, least_depth: int = 0) -> list[Pick]:
    """Compute scores and ranks of turns that :func:`select_turns` selected from this tree."""
    scores = {index: uncertainty_score(tree, index, config) for index in _candidates(tree, least_depth)}
    picks = []
    order = {index: place for place, index in enumerate(scores)}
    for index in selected:  # a strategy may have selected one that is no candidate
        score, place = uncertainty_score(tree, index, config), order.get(index, len(order))
        rank = 1 + sum(scores[other] > score or (scores[other] == score and order[other] < place) for other in scores)
        picks.append(Pick(index, score, (tree.nodes[index].mean_nll or 0.0) - score, rank, len(scores)))
    return picks


@register_strategy("entropy")
def most_uncertain_first(
    tree: TurnTree, candidates: list[int], config: ExpansionConfig, rng: random.Random
) -> list[int]:
    """Order candidates as the paper does: highest :func:`uncertainty_score` first, ties in breadth-first order."""
    return sorted(candidates, key=lambda index: -uncertainty_score(tree, index, config))


@register_strategy("random")
def random_order(tree: TurnTree, candidates: list[int], config: ExpansionConfig, rng: random.Random) -> list[int]:
    """Order the candidates at random (ablation)."""
    return rng.sample(candidates, len(candidates))


@register_strategy("other_chains")
def where_other_chains_are_uncertain(
    tree: TurnTree, candidates: list[int], config: ExpansionConfig, rng: random.Random
) -> list[int]:
    """Select contexts by the uncertainty of the *other* initial chains, so that no turn decides on its own context.

    All initial chains except the last are expanded in turn, each time at the next of its :func:`target_depths`. A
    chain that ended earlier, or that has no such depth, is not expanded: a fresh chain is grown instead. Why this
    leaves the gradient unbiased is explained in :mod:`verl_atpo.schemes.split`.
    """
    chains = [tree.path(node.index) for node in tree.nodes if node.is_leaf and node.round == 0][:-1]
    if not chains:
        return [ROOT]
    grown = len(tree.leaves) - len(chains) - 1
    picks = []
    for number in range(grown, grown + config.branches_per_round):
        chain = chains[number % len(chains)]
        others = [other for other in chains if other is not chain]
        targets = target_depths(tree, others, number // len(chains) + 1, config.penalty)
        picks.append(chain[targets[-1] - 1] if targets and targets[-1] <= len(chain) else ROOT)
    return picks


@register_strategy("noise")
def where_noise_falls_most(
    tree: TurnTree, candidates: list[int], config: ExpansionConfig, rng: random.Random
) -> list[int]:
    """Select each chain's context whose expansion lowers noise most for its tokens; a fresh chain if none does.

    :func:`~verl_atpo.method.noise.relative_noise` rates contexts by their depth and by how many turns were sampled in
    them. A depth at which only a share of the chains can be expanded gains only this share, so that chains are not
    expanded late for having been long. Chains with fewer expansions come first.
    """
    depths = _depths(tree)
    chains = len(tree.nodes[ROOT].children)
    if chains < 2:
        return candidates
    context = group_contexts(tree, Contexts.MERGED).context
    sampled = Counter(context)
    best: dict[int, tuple[int, float, int]] = {}
    for node in candidates:
        path = tree.path(node)
        if not path:
            continue
        rating, selected = 1.0, ROOT
        if 1 < len(path) <= len(depths):
            left = tree.undecided[min(len(path), len(tree.undecided)) - 1]
            there = sampled[context[node]] + tree.nodes[tree.nodes[node].parent].pending
            spent, going = depths[len(path) - 1]
            noise = relative_noise(left, spent, there, chains)
            rating, selected = min((1.0, ROOT), (1.0 - going * (1.0 - noise), node))
        so_far = best.get(path[0]) or (_expansions(tree, path[0]), rating, selected)
        best[path[0]] = min(so_far, (so_far[0], rating, selected))
    return [node for _, _, node in sorted(best.values())] or [ROOT]


def _expansions(tree: TurnTree, node: int) -> int:
    """Count the expansions of a chain, from its first turn on, those that have not sampled a turn yet included."""
    children = tree.nodes[node].children
    grown = sum(tree.nodes[child].round > tree.nodes[node].round for child in children)
    return grown + tree.nodes[node].pending + sum(_expansions(tree, child) for child in children)


def _depths(tree: TurnTree) -> list[tuple[float, float]]:
    """Compute by depth the share of its tokens that a chain has sampled there, and the share of chains that go on.

    The first is averaged over the chains that have come so far, the second is the share of those that went on after one
    more turn, so that this turn may be re-sampled.
    """
    shares: list[list[float]] = []
    for leaf in tree.leaves:
        tokens = [len(tree.turn(node).token_ids) for node in tree.path(leaf)]
        for depth, before in enumerate(itertools.accumulate([0, *tokens[:-1]])):
            if len(shares) == depth:
                shares.append([])
            shares[depth].append(before / sum(tokens))
    going = [len(each) / len(tree.leaves) for each in shares[1:]] + [0.0]
    return [(sum(each) / len(each), on) for each, on in zip(shares, going, strict=bool(shares))]


def target_depths(tree: TurnTree, others: list[list[int]], count: int, penalty: float) -> list[int]:
    """Choose the depths at which a chain is expanded, in order, from other chains' samples only.

    Always at the depth from 2 on with the highest mean NLL of the others there (their share that came so far counts
    in: the sum is divided by all of them), minus the penalty per earlier target at this depth.

    Args:
        tree: holds the chains.
        others: nodes of every other chain, first turn first.
        count: how many.
        penalty: nats.

    Returns:
        ``count`` depths; none if no other chain has a second turn.
    """
    depths = range(2, max(map(len, others), default=1) + 1)
    unsure = {
        depth: math.fsum(tree.nodes[other[depth - 1]].mean_nll or 0.0 for other in others if len(other) >= depth)
        / len(others)
        for depth in depths
    }
    targets: list[int] = []
    while unsure and len(targets) < count:
        targets.append(max(depths, key=lambda depth: unsure[depth] - penalty * targets.count(depth)))
    return targets


def uncertainty_score(tree: TurnTree, index: int, config: ExpansionConfig) -> float:
    """Compute the turn's mean NLL minus ``config.penalty`` per expansion that its context already has, nats/token.

    The root's mean NLL counts as 0, and its expansions are its own children. An expansion counts from its start.
    """
    return (tree.nodes[index].mean_nll or 0.0) - config.penalty * _branches(tree, index, config.penalty_counts)


def _branches(tree: TurnTree, index: int, counts: Penalty) -> int:
    parent = tree.nodes[ROOT if index == ROOT else tree.nodes[index].parent]
    if counts is Penalty.SIBLINGS:
        return max(0, len(parent.children) + parent.pending - 1)
    # A turn and the first one after it are sampled in the same round, so a newer child is a re-sampled one.
    return parent.pending + sum(tree.nodes[child].round > parent.round for child in parent.children)
