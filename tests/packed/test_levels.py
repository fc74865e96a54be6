"""Attention over tries as variable-length calls by nesting, against dense masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.attention_calls import attend, calls, counted, dense_kernel, trie_of
from tests.assets.packed_batches import Shape
from tests.assets.random_rows import row_lists
from tests.assets.tries import ancestors, flat
from verl_atpo.packed.trie import build_trie


@settings(deadline=None)
@given(row_lists)
def test_calls_cover_every_visible_pair_once_and_no_query_twice(rows):
    trie = build_trie(*flat(rows))
    covered = np.zeros((len(trie), len(trie)), dtype=int)
    for call in calls(trie):
        assert len(set(call.query.tolist())) == len(call.query)
        for number in range(len(call.query_ends) - 1):
            queries, keys = (
                tokens[slice(*ends[number : number + 2])]
                for tokens, ends in ((call.query, call.query_ends), (call.key, call.key_ends))
            )
            seen = np.ones((len(queries), len(keys)), dtype=int)
            covered[np.ix_(queries, keys)] += np.tril(seen) if call.causal else seen
    assert np.array_equal(covered, ancestors(trie).astype(int))


@settings(deadline=None, max_examples=30)
@given(row_lists, st.integers(0, 9))
def test_joined_calls_equal_a_dense_mask(rows, seed):
    trie = build_trie(*flat(rows))
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(len(trie), heads, 8, generator=generator) for heads in (6, 2, 2))
    found = attend(calls(trie), query, key, value, dense_kernel)
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(3, 1)) * 8**-0.5
    weights = scores.masked_fill(~torch.from_numpy(ancestors(trie)), -torch.inf).softmax(-1)
    torch.testing.assert_close(found, torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(3, 1)))


def test_counts_by_hand():
    """A prompt of 128 tokens and two answers of 128: 1 causal call of 3 runs, and 1 of 256 queries over 128 keys."""
    trie = trie_of(Shape(2, 0, 0, prompt=128, turns=(1, 1), sampled=(128, 128)), 0)
    found = counted(trie)
    assert found["tokens"] == 384 and found["calls, launches"] == 3
    visible = 3 * 128 * 129 // 2 + 256 * 128
    assert found["flex, pairs over visible ones"] == pytest.approx(5 * 128**2 / visible)
    assert found["calls, pairs over visible ones"] == pytest.approx(5 * 128**2 / visible)
    # Per head and token: 128 numbers of 2 bytes in and out, and 4; per joined one the same, 3 x 128 x 2 and 12 more.
    assert found["flex, MB of queries and outputs"] == pytest.approx(32 * 384 * 516 / 1e6)
    assert found["bytes of calls over flex"] == pytest.approx((384 * 516 + 256 * 1296) / (384 * 516))
    assert found["calls, MB of queries and outputs"] == pytest.approx(32 * (384 * 516 + 256 * 1296) / 1e6)
