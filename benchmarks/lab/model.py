"""The examples' Qwen3 as plain functions: the same weights, a forward pass that leaves attention to its caller.

Decoding attends to a key-value cache, training to a token's ancestors in a trie; everything else is the same arithmetic
as `transformers`' (a test compares them), at a third of its time for a model this small.

Shapes: B rows, S tokens of each, H heads, D dimensions of a head, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch.nn.functional import linear, rms_norm, silu
from transformers import Qwen3ForCausalLM

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Layer number, query, key, value (each (B, H, S, D)) to the attended values, (B, H, S, D)."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """Weights of one layer; projections that read the same input are one matrix."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    query_norm: torch.Tensor
    key_norm: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights and shape of the model.

    Attributes:
        layers: from the first to the last.
        embedding: (V, width), also what makes the logits.
        norm: before the logits.
        frequencies: (D / 2,) of the rotary positions.
        heads: of queries and of keys.
        head_dim: D.
        eps: of all norms.
    """

    layers: tuple[Layer, ...]
    embedding: torch.Tensor
    norm: torch.Tensor
    frequencies: torch.Tensor
    heads: int
    head_dim: int
    eps: float

    @classmethod
    def of(cls, model: Qwen3ForCausalLM) -> Weights:
        """The model's weights as they are now; gradients flow to its parameters where they are enabled.

        Raises:
            ValueError: fewer key than query heads.
        """
        config = model.config
        if config.num_key_value_heads != config.num_attention_heads:
            raise ValueError(
                f"{config.num_key_value_heads} key heads for {config.num_attention_heads} query heads: expected as many"
            )
        layers = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            layers.append(
                Layer(
                    input_norm=layer.input_layernorm.weight,
                    qkv=torch.cat([each.weight for each in projections]),
                    query_norm=attention.q_norm.weight,
                    key_norm=attention.k_norm.weight,
                    out=attention.o_proj.weight,
                    mlp_norm=layer.post_attention_layernorm.weight,
                    gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                    down=mlp.down_proj.weight,
                )
            )
        return cls(
            tuple(layers),
            model.model.embed_tokens.weight,
            model.model.norm.weight,
            model.model.rotary_emb.inv_freq,
            config.num_attention_heads,
            config.head_dim,
            config.rms_norm_eps,
        )


def hidden_states(weights: Weights, ids: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
    """Last hidden states, (B, S, width), of token ids (B, S) at positions (B, S)."""
    size, eps = weights.head_dim, weights.eps
    angles = positions[..., None] * weights.frequencies
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    cos, sin = angles.cos(), angles.sin()

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (weights.heads, size)).transpose(1, 2)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        return x * cos + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], dim=-1) * sin

    x = weights.embedding[ids]
    for number, layer in enumerate(weights.layers):
        query, key, value = linear(rms_norm(x, x.shape[-1:], layer.input_norm, eps), layer.qkv).chunk(3, dim=-1)
        query = rotated(rms_norm(heads(query), (size,), layer.query_norm, eps))
        key = rotated(rms_norm(heads(key), (size,), layer.key_norm, eps))
        x = x + linear(attend(number, query, key, heads(value)).transpose(1, 2).flatten(2), layer.out)
        gate, up = linear(rms_norm(x, x.shape[-1:], layer.mlp_norm, eps), layer.gate_up).chunk(2, dim=-1)
        x = x + linear(silu(gate) * up, layer.down)
    return rms_norm(x, x.shape[-1:], weights.norm, eps)


def logits(weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
    """(..., V) of hidden states (..., width)."""
    return linear(hidden, weights.embedding)
