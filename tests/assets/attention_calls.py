"""Attention over a trie as variable-length calls by nesting, joined by log-sum-exp, and counts beside FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.assets.packed_batches import Shape, make_batch
from verl_atpo.packed.cost import LINEAR
from verl_atpo.packed.trie import Ints, Trie, build_trie, levels, segments
from verl_atpo.packed.visibility import BLOCK, Visibility

HEADS, SIZE, BYTES = 32, 128, 2
CPU = torch.device("cpu")
Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""(query, key, value, call) -> output and log-sum-exp, both with the tokens first."""


class Call(NamedTuple):
    """One call with variable lengths.

    Attributes:
        query, key: its tokens, run after run.
        query_ends, key_ends: where the runs begin, and the end.
        causal: a run's query i sees its keys up to i; otherwise all of them.
    """

    query: Ints
    key: Ints
    query_ends: Ints
    key_ends: Ints
    causal: bool


def calls(trie: Trie) -> list[Call]:
    """Plan the calls: every visible pair once, no token twice among the queries of a call."""
    lines = segments(trie)
    end_of = dict(zip(lines[:, 0].tolist(), lines[:, 2].tolist(), strict=True))
    begin, stop = lines[:, 0], lines[:, 1]
    planned = [_call(begin, stop, begin, stop, causal=True)]
    for first, last, _ in levels(trie):
        end = np.array([end_of[each] for each in first.tolist()])
        forks = last < end
        if forks.any():
            planned.append(_call(last[forks], end[forks], first[forks], last[forks], causal=False))
    return planned


def _call(query: Ints, query_stop: Ints, key: Ints, key_stop: Ints, *, causal: bool) -> Call:
    def runs(begin: Ints, stop: Ints) -> tuple[Ints, Ints]:
        tokens = [np.arange(first, last) for first, last in zip(begin, stop, strict=True)]
        return np.concatenate(tokens), np.concatenate([[0], np.cumsum(stop - begin)])

    (queries, query_ends), (keys, key_ends) = runs(query, query_stop), runs(key, key_stop)
    return Call(queries, keys, query_ends, key_ends, causal)


def attend(
    planned: list[Call], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel: Kernel
) -> torch.Tensor:
    """Attend call by call.

    Args:
        planned: by :func:`calls`, the causal one first.
        query: (tokens, heads, size).
        key: (tokens, key heads, size).
        value: as ``key``.
        kernel: of one call.
    """
    output, lse = kernel(query, key, value, planned[0])
    for call in planned[1:]:
        at, seen = (torch.from_numpy(each).to(query.device) for each in (call.query, call.key))
        part, part_lse = kernel(query[at], key[seen], value[seen], call)
        total = torch.logaddexp(lse[at], part_lse)
        joined = output[at] * (lse[at] - total).exp()[..., None] + part * (part_lse - total).exp()[..., None]
        output = output.index_copy(0, at, joined.to(output.dtype))
        lse = lse.index_copy(0, at, total)
    return output


def varlen_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run torch's variable-length flash attention, which needs a CUDA device."""
    from torch.nn.attention.varlen import AuxRequest

    ends = [torch.from_numpy(each.astype(np.int32)).to(query.device) for each in (call.query_ends, call.key_ends)]
    longest = [int(np.diff(each).max()) for each in (call.query_ends, call.key_ends)]
    repeat = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(repeat, 1) for each in (key, value))
    output, lse = varlen(query, key, value, *ends, *longest, causal=call.causal, return_aux=AuxRequest(lse=True))
    return output, lse if lse.shape[:1] == query.shape[:1] else lse.transpose(0, 1)


def varlen(*arguments: Any, causal: bool, **more: Any) -> Any:
    """Call torch's variable-length flash attention, for which causal attention is a window."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(*arguments, window_size=(-1, 0) if causal else (-1, -1), **more)


def dense_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute a call's runs one by one with a matrix of scores each."""
    repeat = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(repeat, 1) for each in (key, value))
    outputs, sums = [], []
    for number in range(len(call.query_ends) - 1):
        at = slice(*call.query_ends[number : number + 2].tolist())
        seen = slice(*call.key_ends[number : number + 2].tolist())
        scores = torch.einsum("qhd,khd->qhk", query[at], key[seen]) * query.shape[-1] ** -0.5
        if call.causal:
            later = torch.ones(scores.shape[0], scores.shape[2], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later[:, None], -torch.inf)
        outputs.append(torch.einsum("qhk,khd->qhd", scores.softmax(-1), value[seen]))
        sums.append(scores.logsumexp(-1))
    return torch.cat(outputs), torch.cat(sums)


def counted(trie: Trie) -> dict[str, Any]:
    """Count pairs, launches and bytes of both plans."""
    planned, tokens = calls(trie), len(trie)
    visible = int(trie.depth_N.sum()) + tokens
    mask = Visibility(trie, CPU, blocks=True).block_mask(None)
    blocks = int(mask.kv_num_blocks.sum()) + int(mask.full_kv_num_blocks.sum())  # type: ignore[union-attr]
    tiles = sum(_tiles(call) for call in planned)
    joined = sum(len(call.query) for call in planned[1:])
    one = tokens * (2 * SIZE * BYTES + 4)  # read a query, write an output and its log-sum-exp
    more = joined * (2 * SIZE * BYTES + 4 + 3 * SIZE * BYTES + 3 * 4)  # the same, and join: read two, write one
    attention = 2 * visible / (LINEAR * tokens + 2 * visible)
    pair = BLOCK**2 / visible
    return {
        "tokens": tokens,
        "attention, share of a forward's FLOPs": attention,
        "flex, pairs over visible ones": blocks * pair,
        "calls, pairs over visible ones": tiles * pair,
        "saved by calls, share of a forward's FLOPs": attention * (blocks - tiles) * pair,
        "flex, launches": 1,
        "calls, launches": 2 * len(planned) - 1,
        "flex, MB of queries and outputs": HEADS * one / 1e6,
        "calls, MB of queries and outputs": HEADS * (one + more) / 1e6,
        "bytes of calls over flex": (one + more) / one,
    }


def _tiles(call: Call) -> int:
    query, key = (-(-np.diff(ends) // BLOCK) for ends in (call.query_ends, call.key_ends))
    return int((query * (query + 1) // 2 if call.causal else query * key).sum())


def trie_of(shape: Shape, seed: int) -> Trie:
    """The trie of one prompt's rows."""
    rows = make_batch(shape, seed, vocabulary=1000).whole()
    return build_trie(np.concatenate([np.array(row) for row in rows]), np.cumsum([0, *map(len, rows)]))
