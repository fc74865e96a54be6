"""Grouping of turns that were sampled from identical contexts in different trajectories. Pure Python.

A turn's *context* is what the policy saw when it sampled it: the prompt, the turns before with their observations, and
the observation that opened it. Chains often begin with the same words and read the same answer; their second turns were
then sampled in one context, but are nodes with different parents. ``credit.contexts`` says what counts as one context:

- ``separate``: only the context of one node's children;
- ``merged``: contexts of equal token ids. Turns with equal ids in it are *copies*, one turn that was sampled several
  times, and a value is the mean over all that was sampled after any of them;
- ``states``: contexts that end with an observation of equal token ids, on any path. These are the anchor states of
  GiGPO (arXiv 2505.10978, section 3.2). Only baselines are pooled: a turn's value stays that of its own path, because
  the policy sees the path too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable

from verl_atpo.config import Contexts
from verl_atpo.tree.recording import BEGIN
from verl_atpo.tree.tree import ROOT, TurnNode, TurnTree


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Groups of nodes with one turn, or with one context, by index.

    Attributes:
        copy_of: lowest index of the copies of each turn; its own where it has no other.
        context: number of the context each turn was sampled in; -1 for the root, which was not sampled.
    """

    copy_of: list[int]
    context: list[int]

    @functools.cached_property
    def copies(self) -> list[list[int]]:
        """Groups of nodes that are one turn, the root by itself; a turn's context comes before it."""
        found: dict[int, list[int]] = {}
        for index, first in enumerate(self.copy_of):
            found.setdefault(first, []).append(index)
        return list(found.values())

    @functools.cached_property
    def siblings(self) -> list[list[int]]:
        """Groups of nodes that were sampled in one context."""
        found: dict[int, list[int]] = {}
        for index, context in enumerate(self.context):
            if index != ROOT:
                found.setdefault(context, []).append(index)
        return list(found.values())


def group_contexts(tree: TurnTree, contexts: Contexts) -> Grouping:
    """Find equal contexts and copies of turns; for a tree that has not grown since, what was found before.

    Args:
        tree: every node with its turn, unless the contexts are ``separate``.
        contexts: definition of equal contexts.
    """
    size, found = tree.groupings.get(contexts, (0, None))
    if size != len(tree.nodes):
        found = _grouped(tree, contexts)
        tree.groupings[contexts] = (len(tree.nodes), found)
    return found


def _grouped(tree: TurnTree, contexts: Contexts) -> Grouping:
    own = list(range(len(tree.nodes)))
    if contexts is Contexts.SEPARATE:
        return Grouping(own, [node.parent for node in tree.nodes])
    numbers: dict[Hashable, int] = {}
    firsts: dict[Hashable, int] = {}
    copy_of, context = [ROOT], [-1]
    holder: dict[int, int] = {}  # node of every generation, by identity
    for node in tree.nodes[1:]:
        turn = tree.turn(node.index)
        first = turn.generations[0]
        observed: Hashable = (tuple(turn.observed_ids), _added_media(tree, node))
        if contexts is Contexts.MERGED:
            if first.before is BEGIN:
                observed = ("begin", tuple(turn.observed_ids), first.media)
            else:
                anchor = node.parent if first.before is None else holder[id(first.before)]
                observed = (copy_of[anchor], first.dropped, observed)
        context.append(numbers.setdefault(observed, len(numbers)))
        copy_of.append(firsts.setdefault((context[-1], tuple(turn.token_ids)), node.index))
        holder.update((id(generation), node.index) for generation in turn.generations)
    return Grouping(copy_of if contexts is Contexts.MERGED else own, context)


def along_paths(tree: TurnTree, grouping: Grouping) -> Grouping:
    """Keep turns in one context only where all contexts and turns before it are equal too; the contexts form a tree.

    Contexts of a plain chat are so already: its context holds everything before. Where trajectories have several
    conversations (sub-agents, compaction), a context may be met after other turns, at another depth, or after other
    contexts. What was done before still decides the outcome, so it is a context of its own there. All first turns have
    one context, the tree's prompt, also where the loop wrote something of its own into it.

    Args:
        tree: the tree.
        grouping: grouping of its turns; not by states.
    """
    numbers: dict[tuple[int, int], int] = {}
    firsts: dict[tuple[int, int], int] = {}
    copy_of, context = [ROOT], [-1]
    for node in tree.nodes[1:]:
        before = copy_of[node.parent]
        here = (before, -1 if before == ROOT else grouping.context[node.index])
        context.append(numbers.setdefault(here, len(numbers)))
        copy_of.append(firsts.setdefault((context[-1], grouping.copy_of[node.index]), node.index))
    return Grouping(copy_of, context)


def _added_media(tree: TurnTree, node: TurnNode) -> tuple[str, ...]:
    """List the images, videos and audio of a turn's observation; of its whole context where the loop replaced some."""
    before = () if node.parent == ROOT else tree.turn(node.parent).generations[-1].media
    media = tree.turn(node.index).generations[0].media
    return media[len(before) :] if media[: len(before)] == before else media
