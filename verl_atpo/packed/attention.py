"""Attention over a trie: each token sees its ancestors and itself.

On a CPU it is computed piece by piece with torch's own flash kernel, and no mask exists: a stretch without a branch is
causal in itself, and what hangs below sees all of it. The pieces of a token are joined by their log-sum-exp, as
flash attention joins its blocks, so that work and memory are those of the distinct tokens alone.

On an accelerator it is FlexAttention with a block mask, made from the trie's subtree ends without an N x N matrix.

The function is registered with transformers as :data:`NAME`; a model hands it the keyword argument ``trie``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward

from verl_atpo.packed.trie import Trie, segments

NAME = "verl_atpo_trie"
"""Name among transformers' attention implementations."""
BLOCK = 128
"""Tokens a side of FlexAttention's blocks; a pack is padded to a multiple."""
Piece = tuple[slice, slice, bool]
"""Queries, keys, and whether they are the same stretch and causal; otherwise each query sees every key."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Sight:
    """What the tokens of one pack see, in the form that the device wants. (No dataclass: FSDP copies those.)

    Attributes:
        pieces: for a CPU.
        block_mask: for an accelerator.
        calls: how often a layer has asked, so that a model that does not pass it on is noticed.
    """

    def __init__(self, pieces: tuple[Piece, ...] | None = None, block_mask: BlockMask | None = None) -> None:
        self.pieces = pieces
        self.block_mask = block_mask
        self.calls = 0


def sight_of(trie: Trie, device: torch.device) -> Sight:
    """What the tokens of ``trie`` see; on an accelerator they are padded to a multiple of :data:`BLOCK`."""
    if device.type == "cpu":
        return Sight(pieces=tuple(_pieces(trie)))
    return Sight(block_mask=block_mask(torch.from_numpy(trie.end_N).to(device)))


def _pieces(trie: Trie) -> Iterator[Piece]:
    stretches = [(slice(begin, stop), slice(stop, end)) for begin, stop, end in segments(trie).tolist()]
    for stretch, _ in stretches:
        yield stretch, stretch, True
    for stretch, below in stretches:
        if below.start < below.stop:
            yield below, stretch, False


def trie_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    dropout: float = 0.0,
    trie: Sight | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that transformers asks for.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, size).
        key: (1, key heads, tokens, size).
        value: as ``key``.
        attention_mask: None.
        scaling: factor of the scores.
        dropout: probability, which must be 0.
        trie: what the tokens see.
        **kwargs: further wishes of the layer.

    Returns:
        (1, tokens, heads, size), and no weights.

    Raises:
        ValueError: the layer wants what is no plain causal attention.
    """
    unusual = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if trie is None or unusual or dropout:
        why = "passes `trie` not on to its layers" if trie is None else f"uses {', '.join(unusual) or 'dropout'}"
        raise ValueError(
            f"{type(module).__name__} {why}, so its rows cannot be packed; leave out +train=packed for this model."
        )
    trie.calls += 1
    if trie.pieces is not None:
        return _PieceAttention.apply(query, key, value, trie.pieces, scaling).transpose(1, 2), None
    output, _ = flex_attention_forward(module, query, key, value, trie.block_mask, scaling=scaling)  # type: ignore[arg-type]
    return output, None


AttentionInterface.register(NAME, trie_attention)


class _PieceAttention(torch.autograd.Function):
    """Pieces joined by log-sum-exp; saves what one flash attention over the tokens saves.

    Heads that share a key are laid out as a batch (groups, key heads, tokens, size), for which the keys are expanded
    without a copy.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pieces: tuple[Piece, ...], scale: float
    ) -> torch.Tensor:
        result = _like(query)
        q, output = _grouped(query, key), _grouped(result, key)
        lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        for queries, keys, causal in pieces:
            k, v = _expanded(q, key[:, :, keys], value[:, :, keys])
            part, part_lse = _forward(q[:, :, queries], k, v, 0.0, causal, scale=scale)
            if causal:
                output[:, :, queries], lse[:, :, queries] = part, part_lse
            else:
                _join(output[:, :, queries], lse[:, :, queries], part, part_lse)
        result = result.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.pieces, ctx.scale = pieces, scale
        return result

    @staticmethod
    def backward(ctx: Any, grad_result: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, result, lse = ctx.saved_tensors
        grads = _like(query).zero_(), _like(key).zero_(), _like(value).zero_()
        q, output, grad_output, grad_q = (_grouped(each, key) for each in (query, result, grad_result, grads[0]))
        for queries, keys, causal in ctx.pieces:
            k, v = _expanded(q, key[:, :, keys], value[:, :, keys])
            # A flash kernel's backward wants the result and log-sum-exp of all keys, whichever keys it is given.
            part_q, part_k, part_v = _backward(
                grad_output[:, :, queries], q[:, :, queries], k, v, output[:, :, queries], lse[:, :, queries],
                0.0, causal, scale=ctx.scale,
            )  # fmt: skip
            grad_q[:, :, queries] += part_q
            grads[1][:, :, keys] += part_k.sum(0, keepdim=True)
            grads[2][:, :, keys] += part_v.sum(0, keepdim=True)
        return *(grad.to(query.dtype) for grad in grads), None, None


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Empty, of the same shape (1, heads, tokens, size), in float32, token by token as transformers lays them out."""
    _, heads, tokens, size = tensor.shape
    return torch.empty(1, tokens, heads, size, dtype=torch.float32, device=tensor.device).transpose(1, 2)


def _grouped(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(1, key heads * groups, tokens, size) as (groups, key heads, tokens, size)."""
    return query[0].unflatten(0, (key.shape[1], -1)).transpose(0, 1)


def _expanded(q: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.expand(q.shape[0], -1, -1, -1) for tensor in tensors]


def _join(output: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor) -> None:
    """Take another piece of the keys in, in place."""
    whole = torch.logaddexp(lse, part_lse)
    output.mul_((lse - whole).exp_().unsqueeze(-1)).add_(part * (part_lse - whole).exp_().unsqueeze(-1))
    lse.copy_(whole)


def block_mask(end_N: torch.Tensor) -> BlockMask:
    """FlexAttention's mask: query i sees key j if ``j <= i < end[j]``.

    Which blocks of queries meet which blocks of keys follows from the blocks' least and greatest ends: (N / 128)**2
    numbers instead of N**2.

    Args:
        end_N: ends of the subtrees; padding tokens that see only themselves are added up to a multiple of 128.
    """
    tokens = len(end_N)
    padded = -(-tokens // BLOCK) * BLOCK
    end = torch.cat([end_N, torch.arange(tokens + 1, padded + 1, device=end_N.device)])
    blocks = end.view(-1, BLOCK)
    number = torch.arange(len(blocks), device=end.device)
    query, key = number[:, None], number[None, :]
    earlier = key < query
    full = earlier & (blocks.amin(1)[None, :] >= (query + 1) * BLOCK)
    partly = (key == query) | (earlier & (blocks.amax(1)[None, :] > query * BLOCK) & ~full)

    def visible(batch: torch.Tensor, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (j <= i) & (i < end[j])

    return BlockMask.from_kv_blocks(*_listed(partly), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=visible)


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per line, how many are set, and which, those first; with the leading dimensions of batch and heads."""
    order = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]
