"""The models that are measured, of random weights: what they compute is timed, not what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and how verl would train it.

    Attributes:
        config: its shape.
        kind: its class.
        budget: tokens of a micro-batch (`ppo_max_token_len_per_gpu`).
        checkpointing: gradient checkpointing.
        cpu_tokens: a batch with more tokens in its rows is scaled down to this on a CPU.
    """

    config: PretrainedConfig
    kind: type[PreTrainedModel]
    budget: int
    checkpointing: bool
    cpu_tokens: int


def _qwen3(hidden: int, layers: int, heads: int, vocabulary: int, **more: Any) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, head_dim=hidden // heads,
        max_position_embeddings=8192, bos_token_id=None, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True,
        **more,
    )  # fmt: skip


WINDOWS = {
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 512,
    "use_sliding_window": True,
}
DELTA = Qwen3_5TextConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=192, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
    linear_value_head_dim=16, max_position_embeddings=8192, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    tie_word_embeddings=True, layer_types=["linear_attention"] * 3 + ["full_attention"],
)  # fmt: skip
MODELS = {
    "0.2M": Model(_qwen3(64, 3, 4, 1000), Qwen3ForCausalLM, budget=16384, checkpointing=False, cpu_tokens=150_000),
    "0.2M, windows of 512": Model(
        _qwen3(64, 3, 4, 1000, **WINDOWS), Qwen3ForCausalLM, budget=16384, checkpointing=False, cpu_tokens=45_000
    ),
    "0.3M, gated delta nets": Model(DELTA, Qwen3_5ForCausalLM, budget=16384, checkpointing=False, cpu_tokens=20_000),
    "10M": Model(_qwen3(320, 6, 8, 8192), Qwen3ForCausalLM, budget=16384, checkpointing=False, cpu_tokens=45_000),
    "135M": Model(
        LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=8192, bos_token_id=None, eos_token_id=1, pad_token_id=0,
            tie_word_embeddings=True,
        ),
        LlamaForCausalLM,
        budget=4096,
        checkpointing=True,
        cpu_tokens=3_000,
    ),
}  # fmt: skip
"""Models by number of parameters; the last has SmolLM2-135M's shape."""


def write_model(name: str, folder: Path) -> Path:
    """Write the model's checkpoint; returns the folder."""
    model = MODELS[name]
    torch.manual_seed(0)
    model.kind(model.config).save_pretrained(folder)
    return folder
