"""Metrics of the selection of turns for re-sampling: how uncertain they were, and which chains they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from verl_atpo.tree.growth import GrownTree


@dataclasses.dataclass(frozen=True)
class SelectedPlace:
    """Place of a selected turn of an initial chain among those that could have been selected if all chains had ended.

    Final turns end their trajectories, so they are never candidates.

    Attributes:
        is_top: it is among the k most uncertain turns of all initial chains, for k selected ones.
        is_early: it is of the half of the chains that ended first.
    """

    is_top: bool
    is_early: bool


def selected_places(grown: GrownTree) -> list[SelectedPlace]:
    """Find the place of every selected turn of an initial chain of a finished tree, in order of selection."""
    nodes = grown.tree.nodes
    chains = [each for each in grown.rollouts if each.selection is None and each.ended_s is not None]
    numbers = {chain.number for chain in chains}
    candidates = [node for node in nodes[1:] if node.sampled_by in numbers and not node.is_leaf]
    selected = [node for node in grown.selected if nodes[node].sampled_by in numbers and not nodes[node].is_leaf]
    known = sorted((node.mean_nll for node in candidates if node.mean_nll is not None), reverse=True)
    if not selected or not known:
        return []
    least = known[min(len(set(selected)), len(known)) - 1]
    by_end = sorted(chains, key=lambda chain: chain.ended_s or 0.0)
    early = {chain.number for chain in by_end[: (len(by_end) + 1) // 2]}
    return [SelectedPlace((nodes[node].mean_nll or 0.0) >= least, nodes[node].sampled_by in early) for node in selected]


def selection_metrics(places: Sequence[SelectedPlace]) -> dict[str, float]:
    """Compute the shares of the selected turns that are among the most uncertain, and of chains that ended early."""
    if not places:
        return {}
    return {
        "branched_top_share": sum(place.is_top for place in places) / len(places),
        "branched_early_share": sum(place.is_early for place in places) / len(places),
    }
