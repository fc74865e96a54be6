"""Visibility between the tokens of a pack, in the forms that attention and layers with a state need.

A token sees itself and its ancestors; with a sliding window only those less than a window away in depth. Each form is
made once per pack and window, on first use.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from verl_atpo.packed.trie import Ints, Trie, levels, segments

BLOCK = 128
"""Tokens a side of FlexAttention's blocks; on an accelerator a pack is padded to a multiple."""


class Seen(enum.Enum):
    """Keys of a piece that its queries see."""

    ALL = enum.auto()
    CAUSAL = enum.auto()
    """As many queries as keys; query i sees the keys up to i."""
    ANTICAUSAL = enum.auto()
    """As many queries as keys; query i sees the keys from i on: what a sliding window leaves of an older stretch."""


class Piece(NamedTuple):
    """Part of the attention matrix.

    Attributes:
        queries: a run of tokens.
        keys: another one.
        seen: mask of the keys that each query sees.
    """

    queries: slice
    keys: slice
    seen: Seen


class Visibility:
    """Visibility between the tokens of one pack. (No dataclass: FSDP copies those.)

    Attributes:
        trie: the pack's distinct tokens.
        device: where the model runs.
        tokens: tokens of the pack with its padding, which sees only itself.
        calls: number of times that layers asked for each window, and for the states, in one forward pass.
    """

    def __init__(self, trie: Trie, device: torch.device, *, blocks: bool | None = None) -> None:
        """Keep the trie.

        Args:
            trie: the pack's distinct tokens.
            device: where the model runs.
            blocks: use FlexAttention; by default on everything but a CPU.
        """
        self.trie = trie
        self.device = device
        self.blocks = device.type != "cpu" if blocks is None else blocks
        self.tokens = -(-len(trie) // BLOCK) * BLOCK if self.blocks else len(trie)
        self.calls: dict[str, int] = {"full": 0, "window": 0, "state": 0}
        self._pieces: dict[int | None, tuple[Piece, ...]] = {}
        self._masks: dict[int | None, BlockMask] = {}
        self._ancestors: dict[int, torch.Tensor] = {}

    def pieces(self, window: int | None) -> tuple[Piece, ...]:
        """Pieces that cover every visible pair once; the first that holds a query is causal."""
        if window not in self._pieces:
            self._pieces[window] = tuple(attention_pieces(self.trie, window))
        return self._pieces[window]

    def block_mask(self, window: int | None) -> BlockMask:
        """FlexAttention's mask."""
        if window not in self._masks:
            self._masks[window] = block_mask(self.trie, self.tokens, self.device, window)
        return self._masks[window]

    def ancestors(self, count: int) -> torch.Tensor:
        """(count, tokens): each token, its parent, its parent's parent, ...; ``tokens`` where there is none."""
        if count not in self._ancestors:
            none = self.tokens
            parent = np.full(none + 1, none)
            parent[: len(self.trie)] = np.where(self.trie.parent_N < 0, none, self.trie.parent_N)
            found = [np.arange(none)]
            for _ in range(count - 1):
                found.append(parent[found[-1]])
            self._ancestors[count] = torch.from_numpy(np.stack(found)).to(self.device)
        return self._ancestors[count]

    @functools.cached_property
    def levels(self) -> list[Level]:
        """Stretches without a fork, those of one nesting together."""
        return [Level.of(begin, stop, origin, self.device) for begin, stop, origin in levels(self.trie)]


class Level(NamedTuple):
    """Stretches whose states can be computed together, because all of their parents' are known.

    Attributes:
        token: the tokens of all stretches, one stretch after the other.
        offsets: where each stretch begins in ``token``, and the end; Python numbers.
        offsets_tensor: the same on the device.
        origin: the stretch of an earlier level from whose last token each stretch continues, counted over all levels;
            None for the first level.
    """

    token: torch.Tensor
    offsets: list[int]
    offsets_tensor: torch.Tensor
    origin: torch.Tensor | None

    @classmethod
    def of(cls, begin: Ints, stop: Ints, origin: Ints, device: torch.device) -> Level:
        """Put the stretches of one level on the device."""
        offsets = np.concatenate([[0], np.cumsum(stop - begin)])
        token = np.concatenate([np.arange(first, last) for first, last in zip(begin, stop, strict=True)])
        return cls(
            torch.from_numpy(token).to(device),
            offsets.tolist(),
            torch.from_numpy(offsets).to(device),
            None if origin[0] < 0 else torch.from_numpy(origin).to(device),
        )


def attention_pieces(trie: Trie, window: int | None) -> Iterator[Piece]:
    """Cover every visible pair of tokens once.

    Without a window a stretch is causal in itself, and the rest of its subtree sees all of it. With one, stretches are
    cut to at most its length; the first tokens of a stretch further down see all of it, each later token sees fewer.
    """
    stretches = segments(trie).tolist()
    if window is not None and len(trie) and int(trie.depth_N.max()) >= window:
        stretches = [
            (first, min(first + window, stop), end)
            for begin, stop, end in stretches
            for first in range(begin, stop, window)
        ]
    else:
        window = None
    for begin, stop, _ in stretches:
        yield Piece(slice(begin, stop), slice(begin, stop), Seen.CAUSAL)
    if window is None:
        for begin, stop, end in stretches:
            if stop < end:
                yield Piece(slice(stop, end), slice(begin, stop), Seen.ALL)
        return
    for number, (begin, stop, end) in enumerate(stretches):
        below = [(first, last) for first, last, _ in _until(stretches, number + 1, end)]
        yield from _merged(_windowed(trie, begin, stop, below, window))


def _until(stretches: list[tuple[int, int, int]], first: int, end: int) -> Iterator[tuple[int, int, int]]:
    for stretch in stretches[first:]:
        if stretch[0] >= end:
            return
        yield stretch


def _windowed(trie: Trie, begin: int, stop: int, below: list[tuple[int, int]], window: int) -> Iterator[Piece]:
    """List the pieces by which stretches below see the keys ``begin`` to ``stop``, at most ``window`` of them."""
    depth, length = trie.depth_N, stop - begin
    limit = int(depth[begin]) + window  # a query of this depth no longer sees the first key
    for first, last in below:
        top = int(depth[first])
        whole = min(max(limit - top, 0), last - first)
        if whole:
            yield Piece(slice(first, first + whole), slice(begin, stop), Seen.ALL)
        older = first + whole
        lost = top + whole - limit  # this query sees the keys after the first ``lost + 1``
        count = min(last - older, length - 1 - lost)
        if count > 0:
            near = begin + 1 + lost
            yield Piece(slice(older, older + count), slice(near, near + count), Seen.ANTICAUSAL)
            if near + count < stop:
                yield Piece(slice(older, older + count), slice(near + count, stop), Seen.ALL)


def _merged(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Join neighbouring runs of queries that see all of the same keys."""
    held: Piece | None = None
    for piece in pieces:
        if held and piece.seen is Seen.ALL and held.keys == piece.keys and held.queries.stop == piece.queries.start:
            held = held._replace(queries=slice(held.queries.start, piece.queries.stop))
            continue
        if held:
            yield held
            held = None
        if piece.seen is Seen.ALL:
            held = piece
        else:
            yield piece
    if held:
        yield held


def block_mask(trie: Trie, tokens: int, device: torch.device, window: int | None = None) -> BlockMask:
    """Make FlexAttention's mask: query i sees key j if ``j <= i < end[j]`` and depths differ by less than the window.

    Which blocks of queries meet which blocks of keys follows from the blocks' least and greatest ends and depths:
    (N / 128)**2 numbers instead of N**2. With a window, a few blocks are listed that hold no visible pair.

    Args:
        trie: the pack's distinct tokens.
        tokens: with padding tokens that see only themselves, a multiple of 128.
        device: device of the result; all of it is made on the CPU.
        window: window of the layer.
    """
    extra = np.arange(len(trie), tokens)
    end = np.concatenate([trie.end_N, extra + 1]).astype(np.int32)
    depth = np.concatenate([trie.depth_N, np.zeros_like(extra)]).astype(np.int32)
    ends, depths = end.reshape(-1, BLOCK), depth.reshape(-1, BLOCK)
    number = np.arange(len(ends))
    query, key = number[:, None], number[None, :]
    earlier = key < query
    full = earlier & (ends.min(1)[None, :] >= (query + 1) * BLOCK)
    any_pair = earlier & (ends.max(1)[None, :] > query * BLOCK)
    if window is not None:
        full &= depths.max(1)[:, None] - depths.min(1)[None, :] < window
        any_pair &= depths.min(1)[:, None] - depths.max(1)[None, :] < window
    partly = (key == query) | (any_pair & ~full)
    few, few_at = (each.to(device) for each in _listed(partly))
    all_of, all_at = (each.to(device) for each in _listed(full))
    rule = _rule(end, depth, device, window)
    return BlockMask.from_kv_blocks(few, few_at, all_of, all_at, BLOCK_SIZE=BLOCK, mask_mod=rule)


def _rule(end: Ints, depth: Ints, device: torch.device, window: int | None) -> Callable[..., torch.Tensor]:
    end_N = torch.from_numpy(end).to(device)
    if window is None:
        return lambda batch, head, i, j: (j <= i) & (i < end_N[j])
    depth_N = torch.from_numpy(depth).to(device)
    return lambda batch, head, i, j: (j <= i) & (i < end_N[j]) & (depth_N[i] - depth_N[j] < window)


def _listed(blocks: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per line how many are set, and their indices first; with the leading dimensions of batch and heads."""
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(blocks.sum(1, dtype=np.int32))[None, None], torch.from_numpy(order)[None, None]
