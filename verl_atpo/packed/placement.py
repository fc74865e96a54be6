"""Deal rows to ranks and mini-batches: shared prefixes stay together, and all ranks end at the same time.

verl cuts a batch into equal numbers of rows, one stretch a rank, and that into mini-batches. A bin is one of these
pieces. Whole groups go to bins, the most expensive first, each to the cheapest bin that has room for it; a group
for which no bin has room is cut. Then the most expensive bin exchanges stretches of its sorted rows for as many rows of
a cheap bin, as long as that makes the more expensive of both cheaper. All steps wait for the slowest rank, so a few
tokens that run twice cost less time than a slow rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verl_atpo.packed.cost import Costs, SharedPrefixes, bin_cost, row_cost
from verl_atpo.packed.trie import Ints, SortedRows

EXCHANGES = 40
"""Exchanges tried per bin."""
PARTNERS = 8
"""Cheap bins that an expensive one tries before it gives up."""
LEAST_GAIN = 1e-3
"""Least share of the most expensive bin's cost that an exchange has to save."""


def place_rows(rows: SortedRows, groups: Sequence[Ints], bins: int) -> list[Ints]:
    """Deal sorted rows to bins of equal numbers of rows.

    Args:
        rows: all sorted rows.
        groups: places among the sorted rows that belong to one prompt, ascending.
        bins: number of pieces.

    Returns:
        For each bin its sorted rows, ascending.

    Raises:
        ValueError: the rows do not make ``bins`` equal pieces.
    """
    count = len(rows.order_R)
    if count % bins:
        raise ValueError(f"{count} rows do not make {bins} pieces of equal size.")
    prefixes = SharedPrefixes(rows)
    placed = _deal(rows, groups, bins, prefixes)
    return _exchange(placed, rows, prefixes) if bins > 1 else placed


def _deal(rows: SortedRows, groups: Sequence[Ints], bins: int, prefixes: SharedPrefixes) -> list[Ints]:
    capacity = len(rows.order_R) // bins
    costs = [bin_cost(group, rows, prefixes) for group in groups]
    placed: list[list[Ints]] = [[] for _ in range(bins)]
    room, load = [capacity] * bins, [0.0] * bins
    cut = []
    for number in sorted(range(len(groups)), key=lambda number: -costs[number]):
        group = groups[number]
        roomy = [each for each in range(bins) if room[each] >= len(group)]
        if not roomy:
            cut.append(group)
            continue
        best = min(roomy, key=load.__getitem__)
        placed[best].append(group)
        room[best] -= len(group)
        load[best] += costs[number]
    for group in cut:
        rest = group
        while len(rest):
            emptiest = max(range(bins), key=room.__getitem__)
            part, rest = rest[: room[emptiest]], rest[room[emptiest] :]
            placed[emptiest].append(part)
            room[emptiest] -= len(part)
    return [np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64) for parts in placed]


def _exchange(placed: list[Ints], rows: SortedRows, prefixes: SharedPrefixes) -> list[Ints]:
    """Exchange stretches between expensive and cheap bins until nothing is gained."""
    cost = np.array([bin_cost(places, rows, prefixes) for places in placed])
    for _ in range(EXCHANGES * len(placed)):
        order = np.argsort(cost)
        heavy = int(order[-1])
        for light in order[:PARTNERS].tolist():
            if light == heavy:
                continue
            given, taken = _best_exchange(placed[heavy], placed[light], cost[heavy], cost[light], rows, prefixes)
            after = [
                np.sort(np.concatenate([np.setdiff1d(placed[one], out), into]))
                for one, out, into in ((heavy, given, taken), (light, taken, given))
            ]
            costs = [bin_cost(places, rows, prefixes) for places in after]
            if max(costs) < cost[heavy] * (1 - LEAST_GAIN):
                placed[heavy], placed[light] = after
                cost[heavy], cost[light] = costs
                break
        else:
            break
    return placed


def _best_exchange(
    heavy: Ints, light: Ints, heavy_cost: float, light_cost: float, rows: SortedRows, prefixes: SharedPrefixes
) -> tuple[Ints, Ints]:
    """Find the stretches of equal length whose exchange makes the more expensive bin cheapest.

    What a stretch costs where it goes is taken to be its cost alone; the caller counts exactly.
    """
    best, found = float("inf"), (heavy[:1], light[:1])
    for length in range(1, len(heavy)):
        saved_heavy, alone_heavy = _stretches(heavy, length, rows, prefixes)
        saved_light, alone_light = _stretches(light, length, rows, prefixes)
        heavy_after = heavy_cost - saved_heavy[:, None] + alone_light[None, :]
        light_after = light_cost - saved_light[None, :] + alone_heavy[:, None]
        worst = np.maximum(heavy_after, light_after)
        place = int(worst.argmin())
        if worst.flat[place] < best:
            best = float(worst.flat[place])
            given, taken = divmod(place, worst.shape[1])
            found = heavy[given : given + length], light[taken : taken + length]
    return found


def _stretches(places: Ints, length: int, rows: SortedRows, prefixes: SharedPrefixes) -> tuple[Costs, Costs]:
    """Compute for each stretch of ``length`` rows of a bin what the bin saves without it, and what it costs alone."""
    lengths = rows.length_R[places]
    shared = np.concatenate([[0], prefixes(places[:-1], places[1:])])
    step = np.concatenate([[0.0], np.cumsum(row_cost(lengths, shared))])
    begin = np.arange(len(places) - length + 1)
    stop = begin + length
    within = step[stop] - step[begin]
    alone = within + row_cost(shared[begin])
    # The row that follows shares fewer tokens with the one before the stretch than with the stretch's last.
    follows = (stop < len(places)) & (begin > 0)
    extra = np.zeros(len(begin))
    extra[follows] = row_cost(
        shared[stop[follows]],
        np.minimum(prefixes(places[begin[follows] - 1], places[stop[follows]]), shared[stop[follows]]),
    )
    first = (stop < len(places)) & (begin == 0)
    extra[first] = row_cost(shared[stop[first]])
    return within - extra, alone
