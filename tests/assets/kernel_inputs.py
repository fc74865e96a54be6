"""Inputs of the packs' kernels: a trie of a paper's tree, random queries, keys and values."""

from __future__ import annotations

import numpy as np
import torch

from tests.assets.packed_batches import Shape, make_batch
from verl_atpo.packed.trie import Trie, build_trie

TREE = Shape(10, 2, 6)


def tree_of(tokens: int, seed: int = 0) -> tuple[Trie, list[int]]:
    """A paper's tree of about so many distinct tokens, and the lengths of its rows."""
    distinct = len(flat_trie(make_batch(TREE, seed, 1000).whole()))
    rows = make_batch(TREE, seed, 1000, scale=tokens / distinct).whole()
    return flat_trie(rows), [len(row) for row in rows]


def flat_trie(rows: list[list[int]]) -> Trie:
    """The trie of rows."""
    return build_trie(np.concatenate([np.array(row) for row in rows]), np.cumsum([0, *map(len, rows)]))


def inputs(tokens: int, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value of random numbers, with gradients where FlexAttention has them."""
    heads, key_heads, size = shape
    torch.manual_seed(tokens)
    made = [torch.randn(1, count, tokens, size) for count in (heads, key_heads, key_heads)]
    return [each.to(device, dtype).requires_grad_(device.type != "cpu") for each in made]
