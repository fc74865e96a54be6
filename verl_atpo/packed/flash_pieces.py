"""Attention on a CPU, piece by piece with torch's own flash kernel; no mask exists.

The pieces of a token are joined by their log-sum-exp, as flash attention joins its blocks, so that work and memory are
those of the distinct tokens alone. An attention sink is one more term of the log-sum-exp.
"""

from __future__ import annotations

from typing import Any

import torch

from verl_atpo.packed.visibility import Piece, Seen

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class PieceAttention(torch.autograd.Function):
    """Pieces joined by log-sum-exp; saves what one flash attention over the tokens saves.

    Heads that share a key are laid out as a batch (groups, key heads, tokens, size), for which the keys are expanded
    without a copy.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None,
        pieces: tuple[Piece, ...], scale: float,
    ) -> torch.Tensor:  # fmt: skip
        """Attend.

        Args:
            ctx: context of autograd.
            query: (1, heads, tokens, size).
            key: (1, key heads, tokens, size).
            value: as ``key``.
            sinks: (heads) scores of the attention sinks, None without them.
            pieces: cover every visible pair once, the first of each query causal.
            scale: factor of the scores.
        """
        result = _like(query)
        q, output = _grouped(query, key), _grouped(result, key)
        lse = torch.empty(q.shape[:-1], dtype=result.dtype, device=q.device)
        for queries, keys, seen in pieces:
            k, v = _expanded(q, key[:, :, keys], value[:, :, keys])
            part, part_lse = _forward(*_turned(seen, q[:, :, queries], k, v), 0.0, seen is not Seen.ALL, scale=scale)
            part, part_lse = _turned(seen, part, part_lse)
            if seen is Seen.CAUSAL:
                output[:, :, queries], lse[:, :, queries] = part, part_lse
            else:
                _join(output[:, :, queries], lse[:, :, queries], part, part_lse)
        if sinks is not None:
            total = torch.logaddexp(lse, _per_head(sinks, key))
            output.mul_((lse - total).exp_().unsqueeze(-1))
            lse = total
        result = result.to(query.dtype)
        ctx.save_for_backward(query, key, value, sinks, result, lse)
        ctx.pieces, ctx.scale = pieces, scale
        return result

    @staticmethod
    def backward(ctx: Any, grad_result: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key, value and sinks."""
        query, key, value, sinks, result, lse = ctx.saved_tensors
        grads = _like(query).zero_(), _like(key).zero_(), _like(value).zero_()
        q, output, grad_output, grad_q = (_grouped(each, key) for each in (query, result, grad_result, grads[0]))
        for queries, keys, seen in ctx.pieces:
            k, v = _expanded(q, key[:, :, keys], value[:, :, keys])
            # A flash kernel's backward wants the result and log-sum-exp of all keys, whichever keys it is given.
            of_queries = grad_output[:, :, queries], q[:, :, queries], output[:, :, queries], lse[:, :, queries]
            d_out, q_part, out, sums = _turned(seen, *of_queries)
            parts = _backward(
                d_out, q_part, *_turned(seen, k, v), out, sums, 0.0, seen is not Seen.ALL, scale=ctx.scale
            )
            part_q, part_k, part_v = _turned(seen, *parts)
            grad_q[:, :, queries] += part_q
            grads[1][:, :, keys] += part_k.sum(0, keepdim=True)
            grads[2][:, :, keys] += part_v.sum(0, keepdim=True)
        grad_sinks = None
        if sinks is not None:
            share = (_per_head(sinks, key) - lse).exp_()
            inner = (grad_output.float() * output.float()).sum(-1)
            grad_sinks = -(share * inner).sum(-1).transpose(0, 1).reshape(-1).to(sinks.dtype)
        return *(grad.to(query.dtype) for grad in grads), grad_sinks, None, None


def _turned(seen: Seen, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Reverse the tokens of an anticausal piece, which makes it causal, or of its results."""
    return [each.flip(2) for each in tensors] if seen is Seen.ANTICAUSAL else list(tensors)


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Empty, of the same shape (1, heads, tokens, size), in float32 or better, laid out token by token."""
    _, heads, tokens, size = tensor.shape
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.empty(1, tokens, heads, size, dtype=dtype, device=tensor.device).transpose(1, 2)


def _grouped(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(1, key heads * groups, tokens, size) as (groups, key heads, tokens, size)."""
    return query[0].unflatten(0, (key.shape[1], -1)).transpose(0, 1)


def _per_head(sinks: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(heads) as (groups, key heads, 1)."""
    return sinks.float().unflatten(0, (key.shape[1], -1)).transpose(0, 1).unsqueeze(-1)


def _expanded(q: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.expand(q.shape[0], -1, -1, -1) for tensor in tensors]


def _join(output: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor) -> None:
    """Merge another piece of the keys, in place."""
    total = torch.logaddexp(lse, part_lse)
    output.mul_((lse - total).exp_().unsqueeze(-1)).add_(part * (part_lse - total).exp_().unsqueeze(-1))
    lse.copy_(total)
