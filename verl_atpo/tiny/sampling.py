"""Batched sampling of turns without an engine, to measure a model before verl trains it."""

from __future__ import annotations

import torch
from transformers import Qwen3ForCausalLM

MAX_TURN_TOKENS = 16


@torch.inference_mode()
def sample_turns(model: Qwen3ForCausalLM, prompts: list[list[int]], temperature: float) -> list[list[int]]:
    """Sample one turn for each prompt, up to its end token or `MAX_TURN_TOKENS`; temperature 0 is greedy."""
    pad, end = model.config.pad_token_id, model.config.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_TURN_TOKENS, **options)  # type: ignore[misc]
    turns = output[:, width:].tolist()
    return [turn[: turn.index(end) + 1] if end in turn else turn for turn in turns]
