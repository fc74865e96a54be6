"""Construction of a trie from rows: tokens that follow the same prefix are stored once.

The rows of a tree repeat their prefixes, and the rows of plain chains repeat the prompt. A causal model gives a token
the same hidden state wherever its prefix is the same, so the distinct tokens are all that has to be computed:

    rows                     trie (depth-first)              slots of the rows
    [5 6 7], [5 6 8 9]       5 6 7 8 9                       0 1 2   0 1 3 4
                             parent -1 0 1 1 3
                             end     5 5 3 5 5

Depth-first order makes a subtree one stretch, so one number a token says who may attend to it: token i sees token j
exactly if ``j <= i < end[j]``. Nothing here knows of prompts or trees: what is equal is shared.

Pure NumPy, linear in the rows' tokens (after a sort of the rows). Suffixes: ``_T`` tokens of all rows, ``_N`` distinct
tokens, ``_R`` rows.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ROOT = -1
"""Parent of a row's first token."""


@dataclasses.dataclass(frozen=True)
class Trie:
    """The distinct tokens of some rows, depth-first.

    Attributes:
        token_N: token ids.
        depth_N: position of the token in each of its rows, from 0.
        parent_N: the token before it, :data:`ROOT` for a first one.
        end_N: one past the last token of its subtree.
        slot_T: for every token of the rows, in their order, its place in the trie.
    """

    token_N: Ints
    depth_N: Ints
    parent_N: Ints
    end_N: Ints
    slot_T: Ints

    def __len__(self) -> int:
        return len(self.token_N)


@dataclasses.dataclass(frozen=True)
class SortedRows:
    """Rows in the order of their token ids.

    Attributes:
        order_R: the rows, sorted.
        shared_R: for the sorted rows, how many leading tokens each shares with the one before it; 0 for the first.
        length_R: their lengths.
    """

    order_R: Ints
    shared_R: Ints
    length_R: Ints

    @property
    def distinct(self) -> int:
        """Number of distinct tokens."""
        return int((self.length_R - self.shared_R).sum())


def sort_rows(token_T: Ints, offsets: Ints) -> SortedRows:
    """Sort rows by their tokens, which makes neighbours of those with the longest common prefix.

    Args:
        token_T: token ids of all rows, one row after the other, below 2**32.
        offsets: where each row begins, and the end; rows + 1 numbers.
    """
    big_endian = token_T.astype(">u4")  # bytes in the order of the numbers
    rows = [big_endian[begin:end] for begin, end in itertools.pairwise(offsets)]
    keys = [row.tobytes() for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    shared = [0] * min(len(rows), 1) + [_shared(rows[a], rows[b]) for a, b in itertools.pairwise(order)]
    return SortedRows(
        order_R=np.array(order, dtype=np.int64),
        shared_R=np.array(shared, dtype=np.int64),
        length_R=np.array([len(rows[row]) for row in order], dtype=np.int64),
    )


def _shared(one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> int:
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def build_trie(token_T: Ints, offsets: Ints) -> Trie:
    """Build the trie of some rows; arguments as those of :func:`sort_rows`.

    The sorted rows are walked once: each adds what it does not share with the row before it.
    """
    rows = sort_rows(token_T, offsets)
    fresh_R = rows.length_R - rows.shared_R
    begin_R = np.cumsum(fresh_R) - fresh_R
    total = int(fresh_R.sum())
    slot_T = np.empty(len(token_T), dtype=np.int64)
    token, depth, parent = (np.empty(total, dtype=np.int64) for _ in range(3))
    path: Ints = np.empty(0, dtype=np.int64)  # slots of the row before
    for row, shared, length, begin in zip(rows.order_R, rows.shared_R, rows.length_R, begin_R, strict=True):
        new = slice(begin, begin + length - shared)
        path = np.concatenate([path[:shared], np.arange(new.start, new.stop)])
        slot_T[offsets[row] : offsets[row] + length] = path
        token[new] = token_T[offsets[row] + shared : offsets[row] + length]
        depth[new] = np.arange(shared, length)
        parent[new] = np.concatenate([[ROOT], path])[shared:length]
    return Trie(token, depth, parent, _ends(rows, begin_R, total), slot_T)


def _ends(rows: SortedRows, begin_R: Ints, total: int) -> Ints:
    """Find each token's end: for depth d, the start of the next sorted row that shares no more than d tokens."""
    end = np.empty(total, dtype=np.int64)
    end_at_depth = np.full(int(rows.length_R.max(initial=0)), total)
    for shared, length, begin in zip(rows.shared_R[::-1], rows.length_R[::-1], begin_R[::-1], strict=True):
        end[begin : begin + length - shared] = end_at_depth[shared:length]
        end_at_depth[shared:] = begin
    return end


def segments(trie: Trie) -> Ints:
    """List the longest stretches without a fork.

    Returns:
        Begin, end of the stretch and end of its subtree, one line a stretch. Within one, attention is plainly causal;
        the rest of its subtree sees all of it.
    """
    inner = trie.parent_N >= 0
    children = np.bincount(trie.parent_N[inner], minlength=len(trie))
    starts = ~inner
    starts[inner] = children[trie.parent_N[inner]] > 1
    begin = np.flatnonzero(starts)
    return np.stack([begin, np.append(begin[1:], len(trie)), trie.end_N[begin]], axis=1)


def levels(trie: Trie) -> list[tuple[Ints, Ints, Ints]]:
    """List stretches without a fork by nesting: those of a level continue stretches of earlier levels.

    Returns:
        For each level begin, end and origin of its stretches. The origin is the stretch that a stretch continues from,
        counted over all levels in their order, or :data:`ROOT` in the first level.
    """
    lines = segments(trie)
    begin, stop = lines[:, 0], lines[:, 1]
    owner = np.repeat(np.arange(len(begin)), stop - begin)  # stretch of each token
    parent = trie.parent_N[begin]
    above = np.where(parent < 0, ROOT, owner[parent])
    nesting = np.zeros(len(begin), dtype=np.int64)
    for number, origin in enumerate(above.tolist()):  # depth-first: a stretch stands before those below it
        nesting[number] = 0 if origin < 0 else nesting[origin] + 1
    order = np.argsort(nesting, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    origins = np.where(above < 0, ROOT, place[above])
    cuts = np.flatnonzero(np.diff(nesting[order])) + 1
    return [(begin[part], stop[part], origins[part]) for part in np.split(order, cuts)]
