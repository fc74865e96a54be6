"""Attention over tries: piece by piece, and with a block mask, against a dense mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.random_rows import row_lists
from tests.assets.tries import ancestors, flat
from verl_atpo.packed.attention import RUNNING, NotPackable, trie_attention
from verl_atpo.packed.trie import build_trie
from verl_atpo.packed.visibility import BLOCK, Seen, Visibility, attention_pieces, block_mask

LAYER = torch.nn.Linear(1, 1)
SCALE = 0.3
CPU = torch.device("cpu")
WINDOWS = (None, 1, 2, 3, 5, 100)


def draw(seed, tokens, dtype=torch.float32, heads=6, key_heads=2, size=8):
    """Queries, keys and values in transformers' layout."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, tokens, count, size) for count in (heads, key_heads, key_heads)]
    made = [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes]
    return [each.requires_grad_() for each in made]


def dense(query, key, value, seen, sinks=None):
    """Attention with a whole matrix of scores; a sink is one more column, whose value is zero."""
    repeat = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(repeat, 1).transpose(-1, -2) * SCALE
    scores = scores.masked_fill(~torch.from_numpy(seen), -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[None, :, None, None].expand(-1, -1, scores.shape[2], 1)], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]]
    return weights @ value.repeat_interleave(repeat, 1)


def attend(visibility, inputs, **arguments):
    RUNNING.visibility = visibility
    try:
        return trie_attention(LAYER, *inputs, None, scaling=SCALE, **arguments)[0]
    finally:
        RUNNING.visibility = None


@settings(deadline=None)
@given(row_lists, st.integers(0, 9), st.sampled_from(WINDOWS), st.booleans())
def test_pieces_equal_a_dense_mask(rows, seed, window, with_sinks):
    trie = build_trie(*flat(rows))
    inputs = draw(seed, len(trie))
    sinks = torch.randn(6, generator=torch.Generator().manual_seed(seed)).requires_grad_() if with_sinks else None
    output = attend(Visibility(trie, CPU), inputs, sliding_window=window, s_aux=sinks)
    expected = dense(*inputs, ancestors(trie, window), sinks).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    wanted_of = inputs if sinks is None else [*inputs, sinks]
    found, wanted = (torch.autograd.grad((each * weight).sum(), wanted_of) for each in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(row_lists, st.sampled_from(WINDOWS))
def test_pieces_cover_every_visible_pair_once(rows, window):
    trie = build_trie(*flat(rows))
    covered = np.zeros((len(trie), len(trie)), dtype=int)
    begun: set[int] = set()
    for queries, keys, seen in attention_pieces(trie, window):
        places = np.arange(queries.start, queries.stop)
        if seen is Seen.CAUSAL:
            begun.update(places.tolist())
        assert begun.issuperset(places.tolist())  # the kernel's first piece of a query sets its result
        for i, query in enumerate(places):
            first, last = {Seen.ALL: (0, None), Seen.CAUSAL: (0, i + 1), Seen.ANTICAUSAL: (i, None)}[seen]
            covered[query, np.arange(keys.start, keys.stop)[first:last]] += 1
    assert np.array_equal(covered, ancestors(trie, window).astype(int))


def test_pieces_in_bfloat16():
    trie = build_trie(*flat([[0] * 40 + [row] * 30 for row in range(4)]))
    inputs = draw(0, len(trie), torch.bfloat16)
    output = attend(Visibility(trie, CPU), inputs)
    exact = [each.detach().float().requires_grad_() for each in inputs]
    expected = dense(*exact, ancestors(trie)).transpose(1, 2)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02)
    grads = torch.autograd.grad(output.sum(), inputs)
    for found, wanted in zip(grads, torch.autograd.grad(expected.sum(), exact), strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.1)


def test_values_smaller_and_larger_than_keys():
    trie = build_trie(*flat([[1, 2, 3], [1, 2, 4, 5]]))
    query, key, _ = draw(0, len(trie))
    for size in (3, 8, 11):
        wide = torch.randn(1, 2, len(trie), size)
        output = attend(Visibility(trie, CPU), (query, key, wide))
        torch.testing.assert_close(output, dense(query, key, wide, ancestors(trie)).transpose(1, 2))


def random_trie(seed):
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 2, 300).tolist()]
    for _ in range(8):
        rows.append(rows[random.integers(len(rows))][: random.integers(300)] + random.integers(0, 2, 200).tolist())
    return build_trie(*flat(rows))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [None, 100])
def test_block_mask_equals_a_dense_mask(seed, window):
    trie = random_trie(seed)
    padded = Visibility(trie, CPU, blocks=True).tokens
    mask = block_mask(trie, padded, CPU, window)
    assert padded % BLOCK == 0 and 0 <= padded - len(trie) < BLOCK
    seen = np.eye(padded, dtype=bool)
    seen[: len(trie), : len(trie)] = ancestors(trie, window)
    blocks = seen.reshape(padded // BLOCK, BLOCK, padded // BLOCK, BLOCK)
    listed = mask.to_dense()[0, 0].numpy().astype(bool)
    assert (listed >= blocks.any((1, 3))).all()
    # Blocks for which the kernel does not look at the mask: torch's uncompiled form does, so they are checked here.
    whole = np.zeros_like(listed)
    counts, indices = mask.full_kv_num_blocks[0, 0].tolist(), mask.full_kv_indices[0, 0].tolist()
    for query, (count, keys) in enumerate(zip(counts, indices, strict=True)):
        whole[query, keys[:count]] = True
    assert not (whole & ~blocks.all((1, 3))).any()
    if window is None:  # no block more than needed, and none looked at that is seen wholly
        assert np.array_equal(listed, blocks.any((1, 3))) and np.array_equal(whole, blocks.all((1, 3)))
    i, j = np.indices(seen.shape)
    assert np.array_equal(mask.mask_mod(0, 0, torch.from_numpy(i), torch.from_numpy(j)).numpy(), seen)


@pytest.mark.parametrize("size", [64, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 2, 3, 7])
def test_uncompiled_flex_attention_equals_the_pieces(size, group):
    trie = random_trie(0)
    blocks = Visibility(trie, CPU, blocks=True)
    inputs = [each.detach() for each in draw(group, blocks.tokens, heads=2 * group, size=size)]  # no gradients on a CPU
    sinks = torch.randn(2 * group, generator=torch.Generator().manual_seed(size)) if group > 1 else None
    window = 90 if group == 3 else None
    output = attend(blocks, inputs, sliding_window=window, s_aux=sinks)[:, : len(trie)]
    short = [each[:, :, : len(trie)] for each in inputs]
    expected = attend(Visibility(trie, CPU), short, sliding_window=window, s_aux=sinks)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


class Layer(torch.nn.Module):
    is_causal = True


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"attention_mask": torch.zeros(1, 1, 2, 2)}, "hands a mask of its own"),
        ({"dropout": 0.1}, r"has attention dropout \(0.1\)"),
        ({"softcap": 30.0}, "uses softcap"),
        ({"indices": torch.zeros(1)}, "uses indices"),
        ({"is_causal": False}, "is not causal"),
        ({"query": torch.zeros(2, 6, 2, 8)}, "attends over \\(2, 2\\) rows and tokens"),
        ({"query": torch.zeros(1, 6, 1, 8)}, "attends over \\(1, 1\\) rows and tokens where the pack has \\(1, 2\\)"),
    ],
)
def test_other_attention_is_refused(arguments, why):
    query, key, value = draw(0, 2)
    given_arguments = {"query": query, "attention_mask": None, **arguments}
    RUNNING.visibility = Visibility(build_trie(*flat([[1, 2]])), CPU)
    try:
        with pytest.raises(NotPackable, match=rf"Layer {why}.*leave out \+train=packed"):
            trie_attention(Layer(), key=key, value=value, scaling=SCALE, **given_arguments)
    finally:
        RUNNING.visibility = None


def test_a_layer_that_runs_outside_of_a_pack_is_refused():
    with pytest.raises(NotPackable, match="Layer ran outside of a pack"):
        trie_attention(Layer(), *draw(0, 2), None, scaling=SCALE)
