"""Selection of turns to re-sample (paper: entropy-guided tree expansion). Pure Python.

Candidates are the non-leaf nodes, the root included, in breadth-first order. Selecting a turn re-samples it from the
context it was sampled from, which adds a sibling; selecting the root starts a fresh chain.

A strategy orders the candidates, best first. A new one is a function under a name::

    @register_strategy("deepest")
    def deepest(tree, candidates, config, rng):
        return sorted(candidates, key=tree.depth, reverse=True)
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from verl_atpo.config import ROOT_KEY, Contexts, ExpansionConfig, Penalty, Schedule
from verl_atpo.extensions import import_installed, register
from verl_atpo.method.lengths import depths_of
from verl_atpo.method.noise import relative_noise
from verl_atpo.settings import ConfigError, did_you_mean
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.growth import Selection
from verl_atpo.tree.tree import ROOT, TurnTree

Strategy: TypeAlias = Callable[[TurnTree, list[int], ExpansionConfig, random.Random], list[int]]

STRATEGIES: dict[str, Strategy] = {}
"""Selection strategies by the name that ``algorithm.atpo.expansion.strategy`` takes."""


def register_strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Register a selection strategy, ``(tree, candidates, config, rng) -> candidates, best first``.

    Raises:
        ValueError: the name is taken by another function.
    """

    return functools.partial(register, STRATEGIES, "strategy", name)


def strategy_named(name: str) -> Strategy:
    """Return the strategy registered under ``name``.

    Raises:
        ConfigError: nothing is registered under it.
    """
    import_installed()
    if name not in STRATEGIES:
        raise ConfigError(
            f"{ROOT_KEY}.expansion.strategy={name!r} cannot work: expected one of {', '.join(sorted(STRATEGIES))}."
            f"{did_you_mean(name, STRATEGIES)}"
        )
    return STRATEGIES[name]


def select_turns(
    tree: TurnTree, k: int, config: ExpansionConfig, rng: random.Random, *, least_depth: int = 0, wait: bool = False
) -> list[int]:
    """Select the ``k`` turns that expansions which start together re-sample, best first.

    Args:
        tree: the current tree; turns of running trajectories are candidates too.
        k: number of expansions to start. With fewer candidates than ``k`` the list is gone through again from the top.
        config: names the strategy and its settings.
        rng: source of randomness of strategies that need one.
        least_depth: turns up to a candidate, itself included, where there are any such: 1 leaves out the root, 2 the
            first turns too, which share nothing but the prompt.
        wait: more turns will be known later: without enough of this depth select fewer, none of them twice.

    Returns:
        ``k`` node indices, or fewer with ``wait``; :data:`~verl_atpo.tree.tree.ROOT` stands for a fresh chain.

    Raises:
        ConfigError: ``config.strategy`` is not registered.
    """
    candidates = _candidates(tree, least_depth)
    if wait and tree.depth(candidates[0]) < least_depth:
        return []
    ordered = strategy_named(config.strategy)(tree, candidates, config, rng)
    return ordered[:k] if wait else list(itertools.islice(itertools.cycle(ordered), k))


def _candidates(tree: TurnTree, least_depth: int) -> list[int]:
    """List the nodes that may be selected, in the order in which the authors' code walks the tree."""
    inner = [
        index for index in tree.breadth_first if not tree.nodes[index].is_leaf and tree.depth(index) >= least_depth
    ]
    return inner or _candidates(tree, least_depth - 1)


def explain_selection(
    tree: TurnTree, selected: Sequence[int], config: ExpansionConfig, *, least_depth: int = 0
) -> list[Selection]:
    """Compute scores and ranks of turns that :func:`select_turns` selected from this tree."""
    scores = {index: uncertainty_score(tree, index, config) for index in _candidates(tree, least_depth)}
    selections = []
    order = {index: place for place, index in enumerate(scores)}
    for index in selected:  # a strategy may have selected one that is no candidate
        score, place = uncertainty_score(tree, index, config), order.get(index, len(order))
        rank = 1 + sum(scores[other] > score or (scores[other] == score and order[other] < place) for other in scores)
        selections.append(Selection(index, score, (tree.nodes[index].mean_nll or 0.0) - score, rank, len(scores)))
    return selections


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
    selections = []
    for number in range(grown, grown + config.branches_per_round):
        chain = chains[number % len(chains)]
        others = [other for other in chains if other is not chain]
        targets = target_depths(tree, others, number // len(chains) + 1, config.penalty)
        selections.append(chain[targets[-1] - 1] if targets and targets[-1] <= len(chain) else ROOT)
    return selections


@register_strategy("noise")
def where_noise_falls_most(
    tree: TurnTree, candidates: list[int], config: ExpansionConfig, rng: random.Random
) -> list[int]:
    """Select each chain's context whose expansion lowers noise most for its tokens; a fresh chain if none does.

    :func:`~verl_atpo.method.noise.relative_noise` rates contexts by their depth and by how many turns were sampled in
    them. A depth at which only a share of the chains can be expanded gains only this share, so that chains are not
    expanded late for having been long. Chains with fewer expansions come first. So no chain is listed a second time
    before every other that can be expanded, and then in the context that is best after its first expansion.

    With ``schedule=staggered`` depths are rated by the chains of earlier trees, and a running chain is left out until
    it has reached its best depth.
    """
    rating = _NoiseRating(tree, config)
    if rating.chains < 2:
        return candidates
    if config.schedule is Schedule.STAGGERED:
        return _ready(tree, _best_contexts(tree, candidates, rating), rating)
    ordered, fresh = list[int](), Counter[int]()
    while len(ordered) < config.leaves - config.initial_chains:
        best = _best_contexts(tree, candidates, rating)
        if not best:
            return [ROOT]
        number = {first: expansions + fresh[first] for first, (expansions, _, _) in best.items()}
        fewest = min(number.values())
        for first in sorted((each for each in best if number[each] == fewest), key=lambda each: best[each][1:]):
            node = best[first][-1]
            ordered.append(node)
            if node == ROOT:
                fresh[first] += 1
            else:
                rating.pending[tree.nodes[node].parent] += 1
    return ordered


def _best_contexts(
    tree: TurnTree, candidates: Sequence[int], rating: _NoiseRating
) -> dict[int, tuple[int, float, int]]:
    """Find each chain's best context: by first turn, the chain's expansions so far, the best rating and its turn."""
    best: dict[int, tuple[int, float, int]] = {}
    for node in candidates:
        path = tree.path(node)
        if path:
            so_far = best.get(path[0]) or (_expansions(tree, path[0], rating.pending), 1.0, ROOT)
            best[path[0]] = min(so_far, (so_far[0], rating(node), node))
    return best


class _NoiseRating:
    """Noise times tokens with one more expansion in a context, relative to chains.

    Attributes:
        chains: number of chains of the tree.
        depths: profile of its chains, or of those of earlier trees.
        pending: number of expansions after each node that have not sampled a turn yet.
    """

    def __init__(self, tree: TurnTree, config: ExpansionConfig) -> None:
        self._tree = tree
        self.pending = tree.pending.copy()
        staggered = config.schedule is Schedule.STAGGERED
        self.chains = config.initial_chains if staggered else len(tree.nodes[ROOT].children)
        self.depths = tree.depths or depths_of(tree, tree.leaves)
        self._context = group_contexts(tree, Contexts.MERGED).context
        self._sampled = Counter(self._context)

    def __call__(self, node: int) -> float:
        """Rate the context that a node was sampled in; a first turn's is that of a fresh chain."""
        tree = self._tree
        there = self._sampled[self._context[node]] + self.pending[tree.nodes[node].parent]
        return self.at(tree.depth(node), there)

    def at(self, depth: int, sampled: int = 1) -> float:
        """Rate the context of the turn of a depth in which ``sampled`` turns were sampled so far."""
        if not 1 < depth <= len(self.depths):
            return 1.0
        left = self._tree.undecided[min(depth, len(self._tree.undecided)) - 1]
        there = self.depths[depth - 1]
        return 1.0 - there.going * (1.0 - relative_noise(left, there.spent, sampled, self.chains))


def _expansions(tree: TurnTree, node: int, pending: Mapping[int, int]) -> int:
    """Count the expansions of a chain, from its first turn on, pending ones included."""
    children = tree.nodes[node].children
    grown = sum(tree.nodes[child].round > tree.nodes[node].round for child in children)
    return grown + pending.get(node, 0) + sum(_expansions(tree, child, pending) for child in children)


def _ready(tree: TurnTree, best: dict[int, tuple[int, float, int]], rating: _NoiseRating) -> list[int]:
    """List the contexts of chains that are at their best depth or have ended, those with fewest expansions only.

    A chain that will reach a better depth gets its expansion then, so no other chain gets a second one before.

    Args:
        tree: with running chains.
        best: by a chain's first turn, its expansions so far, its best rating and the context that has it.
        rating: rates contexts.
    """
    ended = {tree.nodes[leaf].sampled_by for leaf in tree.leaves}
    firsts = tree.nodes[ROOT].children
    begun = len({tree.nodes[first].sampled_by for first in firsts if tree.nodes[first].round == 0})
    fewest = math.inf if begun >= rating.chains else 0
    ready = []
    for first in firsts:
        expansions, so_far, node = best.get(first, (_expansions(tree, first, rating.pending), 1.0, ROOT))
        if (number := tree.nodes[first].sampled_by) not in ended:
            reached = max(tree.depth(node.index) for node in tree.nodes if node.sampled_by == number)
            depths = range(reached + 1, len(rating.depths) + 1)
            if min((rating.at(depth) for depth in depths), default=1.0) < so_far:
                fewest = min(fewest, expansions)
                continue
        if first in best:
            ready.append((expansions, so_far, node))
    if not ready and fewest == math.inf:
        return [ROOT]
    return [node for expansions, _, node in sorted(ready) if expansions <= fewest]


def target_depths(tree: TurnTree, others: list[list[int]], count: int, penalty: float) -> list[int]:
    """Choose the depths at which a chain is expanded, in order, from other chains' samples only.

    Always at the depth from 2 on with the highest mean NLL of the others there (their share that came so far counts
    in: the sum is divided by all of them), minus the penalty per earlier target at this depth.

    Args:
        tree: holds the chains.
        others: nodes of every other chain, first turn first.
        count: number of depths.
        penalty: penalty per earlier target at a depth, nats.

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
    return (tree.nodes[index].mean_nll or 0.0) - config.penalty * _earlier_expansions(
        tree, index, config.penalty_counts
    )


def _earlier_expansions(tree: TurnTree, index: int, counts: Penalty) -> int:
    parent = tree.nodes[ROOT if index == ROOT else tree.nodes[index].parent]
    if counts is Penalty.SIBLINGS:
        return max(0, len(parent.children) + tree.pending[parent.index] - 1)
    # A turn and the first one after it are sampled in the same round, so a newer child is a re-sampled one.
    return tree.pending[parent.index] + sum(tree.nodes[child].round > parent.round for child in parent.children)
