"""Attention over tries: piece by piece, and with a block mask, against a dense mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from tests.assets.random_rows import row_lists
from tests.packed.test_trie import ancestors, flat
from verl_atpo.packed.attention import BLOCK, block_mask, sight_of, trie_attention
from verl_atpo.packed.trie import build_trie

LAYER = torch.nn.Linear(1, 1)
SCALE = 0.3


def draw(seed, tokens, dtype=torch.float32, heads=6, key_heads=2):
    """Queries, keys and values in transformers' layout."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, tokens, count, 8) for count in (heads, key_heads, key_heads)]
    made = [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes]
    return [each.requires_grad_() for each in made]


def dense(query, key, value, seen):
    repeat = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(repeat, 1).transpose(-1, -2) * SCALE
    return scores.masked_fill(~torch.from_numpy(seen), -torch.inf).softmax(-1) @ value.repeat_interleave(repeat, 1)


@settings(deadline=None)
@given(row_lists, st.integers(0, 9))
def test_pieces_equal_a_dense_mask(rows, seed):
    trie = build_trie(*flat(rows))
    inputs = draw(seed, len(trie))
    output, _ = trie_attention(LAYER, *inputs, None, scaling=SCALE, trie=sight_of(trie, torch.device("cpu")))
    expected = dense(*inputs, ancestors(trie)).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    found, wanted = (torch.autograd.grad((each * weight).sum(), inputs) for each in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_pieces_in_bfloat16():
    trie = build_trie(*flat([[0] * 40 + [row] * 30 for row in range(4)]))
    inputs = draw(0, len(trie), torch.bfloat16)
    output, _ = trie_attention(LAYER, *inputs, None, scaling=SCALE, trie=sight_of(trie, torch.device("cpu")))
    exact = [each.detach().float().requires_grad_() for each in inputs]
    expected = dense(*exact, ancestors(trie)).transpose(1, 2)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02)
    grads = torch.autograd.grad(output.sum(), inputs)
    for found, wanted in zip(grads, torch.autograd.grad(expected.sum(), exact), strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_block_mask_equals_a_dense_mask(seed):
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 2, 300).tolist()]
    for _ in range(8):
        rows.append(rows[random.integers(len(rows))][: random.integers(300)] + random.integers(0, 2, 200).tolist())
    trie = build_trie(*flat(rows))
    mask = block_mask(torch.from_numpy(trie.end_N))
    padded = mask.shape[-1]
    assert padded % BLOCK == 0 and 0 <= padded - len(trie) < BLOCK
    seen = np.eye(padded, dtype=bool)
    seen[: len(trie), : len(trie)] = ancestors(trie)
    blocks = seen.reshape(padded // BLOCK, BLOCK, padded // BLOCK, BLOCK)
    assert np.array_equal(mask.to_dense()[0, 0].numpy().astype(bool), blocks.any((1, 3)))  # no block more than needed
    # Blocks for which the kernel does not look at the mask: torch's uncompiled form does, so they are checked here.
    whole = np.zeros_like(blocks.any((1, 3)))
    counts, indices = mask.full_kv_num_blocks[0, 0].tolist(), mask.full_kv_indices[0, 0].tolist()
    for query, (count, keys) in enumerate(zip(counts, indices, strict=True)):
        whole[query, keys[:count]] = True
    assert np.array_equal(whole, blocks.all((1, 3)))
    inputs = [each.detach() for each in draw(seed, padded)]
    output = flex_attention(*inputs, block_mask=mask, scale=SCALE, enable_gqa=True)
    torch.testing.assert_close(output, dense(*inputs, seen), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [({}, "passes `trie` not on"), ({"sliding_window": 8}, "uses sliding_window"), ({"dropout": 0.1}, "uses dropout")],
)
def test_other_attention_is_refused(arguments, why):
    trie = build_trie(*flat([[1, 2]]))
    sight = {} if not arguments else {"trie": sight_of(trie, torch.device("cpu"))}
    with pytest.raises(ValueError, match=rf"Linear {why}.*leave out \+train=packed"):
        trie_attention(LAYER, *draw(0, len(trie)), None, scaling=SCALE, **sight, **arguments)
