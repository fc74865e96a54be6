"""Gated delta nets over tries against each row by itself, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

from tests.assets.random_rows import row_lists
from tests.assets.tries import flat
from verl_atpo.packed.delta import ancestor_convolution, chunk_of, delta_rule
from verl_atpo.packed.trie import build_trie
from verl_atpo.packed.visibility import Visibility

CPU = torch.device("cpu")
HEADS, SIZE = 2, 3


def slow_rule(
    query, key, value, *, g, beta, initial_state=None, output_final_state=False, cu_seqlens=None, chunk_size=64
):
    """The gated delta rule token by token: decay, read what the key finds, write the difference, read the query."""
    if cu_seqlens is not None:
        spans = list(itertools.pairwise(cu_seqlens.tolist()))
        starts = [None] * len(spans) if initial_state is None else list(initial_state[:, None])
        parts = [
            slow_rule(
                *(each[:, a:b] for each in (query, key, value)), g=g[:, a:b], beta=beta[:, a:b], initial_state=start
            )
            for (a, b), start in zip(spans, starts, strict=True)
        ]
        return torch.cat([output for output, _ in parts], 1), torch.cat([state for _, state in parts])
    batch, tokens = query.shape[:2]
    state = query.new_zeros(batch, HEADS, SIZE, SIZE) if initial_state is None else initial_state
    outputs = []
    for token in range(tokens):
        k, v = key[:, token], value[:, token]
        state = state * g[:, token].exp()[..., None, None]
        found = torch.einsum("bhk,bhkv->bhv", k, state)
        state = state + torch.einsum("bhk,bhv->bhkv", k, (v - found) * beta[:, token][..., None])
        outputs.append(torch.einsum("bhk,bhkv->bhv", query[:, token], state))
    return torch.stack(outputs, 1), state


def inputs_for(tokens, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, tokens, HEADS, SIZE, generator=generator, dtype=dtype) for _ in range(3))
    g = -torch.rand(1, tokens, HEADS, generator=generator, dtype=dtype)
    beta = torch.rand(1, tokens, HEADS, generator=generator, dtype=dtype)
    return [each.requires_grad_() for each in (query, functional.normalize(key, dim=-1).detach(), value, g, beta)]


@settings(deadline=None, max_examples=40)
@given(row_lists, st.integers(0, 9), st.booleans())
def test_the_state_at_a_fork_goes_to_every_child(rows, seed, kernel):
    tokens, offsets = flat(rows)
    trie = build_trie(tokens, offsets)
    inputs = inputs_for(len(trie), seed)
    output = delta_rule(slow_rule, kernel, tuple(inputs), Visibility(trie, CPU), {})
    weights = torch.randn(len(tokens), HEADS, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    packed = output[0, trie.slot_T]
    slots = np.split(trie.slot_T, offsets[1:-1])
    apart = torch.cat(
        [
            slow_rule(*(each[:, slot] for each in inputs[:3]), g=inputs[3][:, slot], beta=inputs[4][:, slot])[0][0]
            for slot in slots
        ]
    )
    torch.testing.assert_close(packed, apart, rtol=1e-10, atol=1e-12)
    found, wanted = (torch.autograd.grad((each * weights).sum(), inputs) for each in (packed, apart))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("longest", [1, 16, 17, 64, 65, 200, 256, 257])
def test_chunks_are_smaller_for_short_stretches_and_change_no_number(longest):
    assert chunk_of(longest) == (16 if longest <= 64 else 32 if longest <= 256 else 64)
    query, key, value, g, beta = inputs = inputs_for(longest, longest, torch.float32)
    found, wanted = (
        torch_chunk_gated_delta_rule(
            query, key, value, g=g, beta=beta, chunk_size=size, initial_state=None, output_final_state=True
        )
        for size in (chunk_of(longest), 64)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(output.sum() + state.sum(), inputs) for output, state in (found, wanted)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_transformers_rule_in_batches_of_several_lengths():
    rows = [[0] * 70 + [row] * (5 + 30 * row) for row in range(4)]
    tokens, offsets = flat(rows)
    trie = build_trie(tokens, offsets)
    inputs = inputs_for(len(trie), 0, torch.float32)
    visibility = Visibility(trie, CPU, blocks=True)
    padded = [functional.pad(each, (0, 0) * (each.dim() - 2) + (0, visibility.tokens - len(trie))) for each in inputs]
    output = delta_rule(torch_chunk_gated_delta_rule, False, tuple(padded), visibility, {})
    assert output.shape == (1, visibility.tokens, HEADS, SIZE)
    assert not output[0, len(trie) :].any()
    slots = np.split(trie.slot_T, offsets[1:-1])
    query, key, value, g, beta = inputs
    for slot in slots:
        query_s, key_s, value_s = query[:, slot] * SIZE**-0.5, key[:, slot], value[:, slot]
        alone, _ = slow_rule(query_s, key_s, value_s, g=g[:, slot], beta=beta[:, slot])
        torch.testing.assert_close(output[0, slot], alone[0], rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(row_lists, st.integers(1, 4), st.booleans())
def test_the_convolution_reads_ancestors(rows, taps, with_bias):
    tokens, offsets = flat(rows)
    trie = build_trie(tokens, offsets)
    generator = torch.Generator().manual_seed(taps)
    x = torch.randn(1, 5, len(trie), generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(5, taps, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(5, generator=generator, dtype=torch.float64) if with_bias else None
    packed = ancestor_convolution(x, weight, bias, "silu", Visibility(trie, CPU))[0][:, trie.slot_T]
    apart = torch.cat(
        [
            functional.silu(
                functional.conv1d(x[:, :, slot], weight[:, None], bias, padding=taps - 1, groups=5)[0, :, : len(slot)]
            )
            for slot in np.split(trie.slot_T, offsets[1:-1])
        ],
        1,
    )
    torch.testing.assert_close(packed, apart)
    found, wanted = (torch.autograd.grad(each.square().sum(), (x, weight)) for each in (packed, apart))
    torch.testing.assert_close(found, wanted)


def test_a_token_without_decay_and_update_leaves_the_state():
    query, key, value, g, beta = inputs_for(6, 3)
    quiet = torch.ones(6, dtype=torch.float64)
    quiet[4:] = 0
    _, short = slow_rule(query[:, :4], key[:, :4], value[:, :4], g=g[:, :4], beta=beta[:, :4])
    _, full = slow_rule(query, key, value, g=g * quiet[:, None], beta=beta * quiet[:, None])
    torch.testing.assert_close(short, full)


DECAYS = (4.0, 16.0)
"""Rates of decay of the two heads, at the strong end of what the layers begin with (0 to 16)."""


def gradient_of_decays(rule, dtype, packed):
    """Gradient of the logarithm of each head's rate of decay, over a trie or over its rows run apart."""
    tokens, offsets = flat([[0] * 150 + [row] * (60 + 45 * row) for row in range(4)])
    trie = build_trie(tokens, offsets)
    query, key, value, step, beta = (each.detach().to(dtype) for each in inputs_for(len(trie), 0))
    if rule is slow_rule:
        query = query * SIZE**-0.5
    decay_log = torch.tensor(DECAYS, dtype=dtype).log().requires_grad_()
    inputs = query, key, value, decay_log.exp() * (step - 1), beta
    if packed:
        output = delta_rule(rule, False, inputs, Visibility(trie, CPU), {})[0, trie.slot_T]
    else:
        query, key, value, g, beta = inputs
        slots = np.split(trie.slot_T, offsets[1:-1])
        output = torch.cat([rule(query[:, s], key[:, s], value[:, s], g=g[:, s], beta=beta[:, s])[0][0] for s in slots])
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((output * weight.to(dtype)).sum(), decay_log)[0].double()


def test_strong_decays_are_rounded_by_transformers_chunks_and_not_by_packing():
    """transformers' rule subtracts sums of up to 64 log-decays in float32, whose gradients nearly cancel."""
    exact = gradient_of_decays(slow_rule, torch.float64, packed=False)

    def error(rule, dtype, packed):
        return float(((gradient_of_decays(rule, dtype, packed) - exact) / exact).abs().max())

    assert error(slow_rule, torch.float64, packed=True) < 1e-12
    assert error(slow_rule, torch.float32, packed=True) < 1e-5  # token by token there is nothing to cancel
    apart, packed = (error(torch_chunk_gated_delta_rule, torch.float32, packed) for packed in (False, True))
    assert apart > 1e-4  # of rows that nothing of this package has touched
    assert packed < 2 * apart
