"""A Qwen3 of about 0.2 million parameters."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

_EMBEDDING_STD = 0.1
_PAIRS = 3  # rotary frequencies that place the peak of the previous-token head
_POSITION_GAIN, _MATCH_GAIN = 4.0, 6.0  # of the queries; the first puts 0.98 of the weight on the previous token


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """Build the model with fresh weights, float32."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    _seed_induction(model)
    return model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write a Hugging Face folder; the weights are written last, so their presence means that it is complete."""
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


@torch.no_grad()
def _seed_induction(model: Qwen3ForCausalLM) -> None:
    """Initialize the model near an induction circuit, which saves minutes of training.

    Reading a fact out of a passage and copying a name are both "find where this token occurred earlier
    and take what followed". Head 0 of layer 0 starts out copying the previous token; head 0 of layer 1
    starts out looking for the place where the token before was the present one. Both are trained further.

    All embeddings share a constant in dimension 0, from which the first head computes the same query and
    the same key everywhere; the key is one rotary step ahead, which puts the peak at distance 1.
    """
    size, width = model.config.head_dim, model.config.hidden_size
    first, second = (model.model.layers[i].self_attn for i in range(2))
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(std=_EMBEDDING_STD)
    embeddings[:, 0] = 2.5 * _EMBEDDING_STD
    frequencies = model.model.rotary_emb.inv_freq[:_PAIRS]
    query, key = torch.zeros(size), torch.zeros(size)
    query[:_PAIRS] = 1.0
    key[:_PAIRS], key[size // 2 : size // 2 + _PAIRS] = frequencies.cos(), frequencies.sin()
    for projection, vector in ((first.q_proj, query), (first.k_proj, key)):
        projection.weight[:size] = 0.0
        projection.weight[:size, 0] = vector
    view = torch.nn.init.orthogonal_(torch.empty(size, width))
    view[:, 0] = 0.0  # the constant is no content
    output = torch.nn.init.orthogonal_(torch.empty(width, size))
    first.v_proj.weight[:size] = view
    first.o_proj.weight[:, :size] = _EMBEDDING_STD * output
    second.q_proj.weight[:size] = view
    second.k_proj.weight[:size] = output.T
    first.q_norm.weight.fill_(_POSITION_GAIN)
    second.q_norm.weight.fill_(_MATCH_GAIN)
