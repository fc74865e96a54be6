"""Which rows go to which rank and mini-batch: a prompt's rows stay together, and the ranks get equal work.

verl cuts a batch into equal numbers of rows, one stretch a rank, and that into mini-batches. A bin is one of these
pieces. Whole groups are dealt to bins, the largest first, each to the bin with the least tokens so far that has
room for it; a group for which no bin has room is cut, and fills what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def place_rows(groups: Mapping[str, Sequence[int]], tokens: Mapping[str, int], bins: int) -> list[int]:
    """Order rows so that equal stretches of them are good bins.

    Args:
        groups: rows of each prompt, those with the longest common prefix next to one another.
        tokens: distinct tokens of each prompt's rows.
        bins: number of pieces of equal numbers of rows.

    Returns:
        All rows, bin after bin.

    Raises:
        ValueError: the rows do not make ``bins`` equal pieces.
    """
    count = sum(len(rows) for rows in groups.values())
    if count % bins:
        raise ValueError(f"{count} rows do not make {bins} pieces of equal size.")
    placed: list[list[int]] = [[] for _ in range(bins)]
    load = [0.0] * bins
    cut = []
    for name in sorted(groups, key=lambda name: -tokens[name]):
        rows = groups[name]
        roomy = [number for number in range(bins) if len(placed[number]) + len(rows) <= count // bins]
        if not roomy:
            cut.append(name)
            continue
        best = min(roomy, key=load.__getitem__)
        placed[best] += rows
        load[best] += tokens[name]
    for name in cut:
        _fill(placed, groups[name], count // bins)
    return [row for rows in placed for row in rows]


def _fill(placed: list[list[int]], rows: Sequence[int], capacity: int) -> None:
    """Put the rows of a group where there is room, in as few pieces as may be."""
    while rows:
        emptiest = min(placed, key=len)
        room = capacity - len(emptiest)
        emptiest += rows[:room]
        rows = rows[room:]
