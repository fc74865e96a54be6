"""Tiny models of every family of decoders, on packs and on rows run apart."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.assets.gradients import gradient_error
from tests.assets.packed_rows import Rows, batch_of, counted, random_trees
from verl_atpo.packed.attention import NAME, RUNNING
from verl_atpo.packed.delta import run_over_tries
from verl_atpo.packed.head import Scoring, score_through_own_head
from verl_atpo.packed.models import STATE, check_layers, check_model, layer_types
from verl_atpo.packed.probe import probe
from verl_atpo.packed.rows import pack_inputs
from verl_atpo.settings import ConfigError

CPU = torch.device("cpu")
TOLERANCE, COARSE_TOLERANCE = 1e-5, 5e-5
"""Tolerances, relative to the norm; the latter for gradients of models whose own code is no nearer to itself."""
UNSCALED = frozenset({"gemma4_text"})
"""Models without a scale of attention scores: two of transformers' own attentions differ by 2e-5 on the same rows."""
TINY: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""Settings that most configurations have; each takes those that it knows."""
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "top_k_experts": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_shared_experts": 1, "moe_topk": 2,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 12, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4, "head_dim": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 7}
PER_LAYER = {"vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8, "global_head_dim": 16}
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "depth": 1, "num_heads": 2,
    "out_hidden_size": 32, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    "num_position_embeddings": 16, "fullatt_block_indexes": [0], "deepstack_visual_indexes": [0],
}  # fmt: skip


def rope(kind: str, **more: Any) -> dict[str, Any]:
    """Settings of a kind of rotary embedding."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}}


SHORT = {"original_max_position_embeddings": 64}
SECTIONS = rope("default", mrope_section=[2, 1, 1])
LLAMA_3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **SHORT)
LONG = rope("longrope", short_factor=[1.0] * 4, long_factor=[2.0] * 4, **SHORT)
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
THREE_HEADS = {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 24}
INDEXED = {"index_topk": 4, "index_n_heads": 2, "index_head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2, Qwen2.5": ("qwen2", {}),
    "Qwen2 with windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 7}),
    "Qwen3": ("qwen3", {}),
    "Qwen3, yarn": ("qwen3", rope("yarn", factor=4.0, **SHORT)),
    "Qwen3-MoE": ("qwen3_moe", EXPERTS),
    "Qwen3-Next": ("qwen3_next", {**EXPERTS, **DELTA}),
    "Qwen3.5, text": ("qwen3_5_text", DELTA),
    "Qwen3.5, rows of text": ("qwen3_5", DELTA),
    "Qwen3.5-MoE, rows of text": ("qwen3_5_moe", {**EXPERTS, **DELTA}),
    "Qwen2.5-VL, rows of text": ("qwen2_5_vl", SECTIONS),
    "Qwen3-VL, rows of text": ("qwen3_vl", SECTIONS),
    "Llama 2": ("llama", {"num_key_value_heads": 4}),
    "Llama 3": ("llama", LLAMA_3),
    "Llama 4": ("llama4_text", {**EXPERTS, "intermediate_size_mlp": 48}),
    "SmolLM2": ("llama", {"tie_word_embeddings": True, **THREE_HEADS}),
    "SmolLM3": ("smollm3", {"no_rope_layers": [1, 1, 0]}),
    "Mistral with a window": ("mistral", {"sliding_window": 7}),
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral 3, rows of text": ("mistral3", {"model_type": "mistral"}),
    "Mixtral": ("mixtral", {**EXPERTS, "sliding_window": None}),
    "Ministral": ("ministral", MIXED),
    "Gemma": ("gemma", {}),
    "Gemma 2": ("gemma2", MIXED),
    "Gemma 3, text": ("gemma3_text", MIXED),
    "Gemma 3, rows of text": ("gemma3", MIXED),
    "Gemma 4, text": ("gemma4_text", MIXED | PER_LAYER),
    "Gemma 4, shared keys": ("gemma4_text", MIXED | PER_LAYER | {"num_kv_shared_layers": 1}),
    "Gemma 4": ("gemma4", MIXED | PER_LAYER),
    "gpt-oss": ("gpt_oss", {**EXPERTS, "layer_types": MIXED["layer_types"], "sliding_window": 7}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", MIXED),
    "OLMo-Hybrid": ("olmo_hybrid", DELTA),
    "GLM-4": ("glm4", {}),
    "GLM-4.5": ("glm4_moe", {**EXPERTS, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}),
    "GLM with sparse attention": ("glm_moe_dsa", {**EXPERTS, **LATENT, **INDEXED}),
    "DeepSeek-V2": ("deepseek_v2", {**EXPERTS, **LATENT}),
    "DeepSeek-V3": ("deepseek_v3", {**EXPERTS, **LATENT}),
    "Phi-3": ("phi3", {"sliding_window": None}),
    "Phi-3 with a window": ("phi3", {"sliding_window": 7}),
    "Phi-3, longrope": ("phi3", LONG),
    "Llama, dynamic": ("llama", rope("dynamic", factor=2.0)),
    "Granite": ("granite", {"logits_scaling": 4.0}),
    "Cohere 2": ("cohere2", MIXED),
    "MiniMax": ("minimax", {**EXPERTS, "layer_types": ["linear_attention", "full_attention", "linear_attention"]}),
    "Doge": ("doge", {}),
    "GPT-2": ("gpt2", GPT2),
    "GPT-2 without dropout": ("gpt2", {**GPT2, **NO_DROPOUT}),
    "Mamba 2": ("mamba2", {"state_size": 8, "num_heads": 8, "n_groups": 1}),
}  # fmt: skip
"""Name of a family -> model type of transformers and the settings that are not of :data:`TINY`."""


def tiny_config(kind: str, more: dict[str, Any]) -> Any:
    """Configuration of a tiny model; of a multimodal one the settings are those of its text part."""
    plain = AutoConfig.for_model(kind)
    if plain.get_text_config() is plain:
        return AutoConfig.for_model(kind, **{**known(plain, TINY), **more})
    text = known(plain.get_text_config(), TINY) | more
    return AutoConfig.for_model(kind, text_config=text, vision_config=known(plain.vision_config, VISION))


def known(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Select the values that a configuration has a setting for."""
    return {name: value for name, value in values.items() if hasattr(config, name)}


def make_model(config: Any, attention: str) -> Any:
    """A model of random weights, the same for every attention."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    config._attn_implementation = attention if text is config else "eager"
    text._attn_implementation = attention
    torch.manual_seed(0)
    multimodal = type(config) in AutoModelForImageTextToText._model_mapping
    model = (AutoModelForImageTextToText if multimodal else AutoModelForCausalLM).from_config(
        config, dtype=torch.float32
    )
    with torch.no_grad():  # so large that every token changes those after it; norms stay
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
            elif not parameter.any():
                torch.nn.init.normal_(parameter, std=0.5)
    return model.train()


def packed_results(config: Any, rows: Rows) -> dict[str, torch.Tensor]:
    """Scores of the counted tokens and gradients, packed."""
    check_model(config)
    model = make_model(config, NAME)
    run_over_tries(model)
    score_through_own_head(model)
    everything = list(range(len(rows.uids)))
    pack = pack_inputs(batch_of(rows, everything, 0), CPU)
    RUNNING.visibility = pack.visibility
    try:
        output = model(
            input_ids=pack.input_ids,
            position_ids=pack.position_ids,
            scoring=Scoring(pack.parent_K, pack.label_K, 0.7, entropy=True),
        )
        check_layers(pack.visibility.calls, config)
        found = {name: torch.cat(counted(rows, everything, pack.to_rows(value))) for name, value in output.items()}
        objective(found).backward()
    finally:
        RUNNING.visibility = None
    with torch.no_grad():
        probe(model.eval(), model, torch.float32, CPU)
    return {**found, **gradients(model)}


def row_results(config: Any, rows: Rows) -> dict[str, torch.Tensor]:
    """The same of each row by itself, with the model's own code and plain attention."""
    model = make_model(config, "eager")
    everything, found = list(range(len(rows.uids))), {"log_probs": [], "entropy": []}
    for row in rows.whole():
        token = torch.tensor([row])
        logits = text_logits(model, token, torch.arange(len(row))[None])[0] / 0.7
        log_p = torch.nn.functional.pad(logits[:-1].log_softmax(-1), (0, 0, 0, 1))
        found["log_probs"].append(log_p.gather(-1, token[0].roll(-1)[:, None]).squeeze(-1))
        found["entropy"].append(-(log_p.exp() * log_p).sum(-1))
    results = {
        name: torch.cat(counted(rows, everything, torch.nested.as_nested_tensor(values, layout=torch.jagged)))
        for name, values in found.items()
    }
    objective(results).backward()
    return {**results, **gradients(model)}


def text_logits(model: Any, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Logits of a row of text; a multimodal model may want to hear that nothing of it is an image."""
    more = {"token_type_ids": torch.zeros_like(token)} if model.config.model_type == "gemma3" else {}
    return model(input_ids=token, position_ids=position, use_cache=False, **more).logits


def objective(found: dict[str, torch.Tensor]) -> torch.Tensor:
    """A sum in which every score has another weight."""
    weight = torch.linspace(-1, 1, len(found["log_probs"]))
    return (found["log_probs"] * weight).sum() + (found["entropy"] * weight.flip(0)).sum()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Gradients of all parameters that have one."""
    return {f"gradient {name}": each.grad for name, each in model.named_parameters() if each.grad is not None}


def compare(config: Any, rows: Rows) -> dict[str, float]:
    """Largest difference of each kind, over the norm of the rows' own."""
    packed, wanted = packed_results(config, rows), row_results(config, rows)
    assert packed.keys() == wanted.keys(), packed.keys() ^ wanted.keys()
    scores, slopes = ("log_probs", "entropy"), [name for name in wanted if name.startswith("gradient")]
    worst = {name: float((packed[name] - wanted[name]).norm() / wanted[name].norm().clamp(min=1e-3)) for name in scores}
    return worst | {"gradient": gradient_error(*({name: one[name] for name in slopes} for one in (packed, wanted)))}


def judge(kind: str, more: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Try a family.

    Returns:
        ``exact`` with the differences, ``refused`` with the reason, ``wrong`` with the differences, or ``not built``.
    """
    rows = random_trees(seed, groups=2, rows=5)
    try:
        config = tiny_config(kind, more)
    except Exception as error:  # of --all: transformers refuses the tiny shape
        return {"verdict": "not built", "reason": f"{type(error).__name__}: {error}"[:200]}
    try:
        differences = compare(config, rows)
    except ConfigError as error:
        return {"verdict": "refused", "reason": str(error)}
    except ValueError as error:
        return {"verdict": "refused", "reason": str(error)}
    coarse = STATE in layer_types(config.get_text_config()) or kind in UNSCALED  # states are sums in float32
    limits = {"gradient": COARSE_TOLERANCE if coarse else TOLERANCE}
    exact = all(value < limits.get(name, TOLERANCE) for name, value in differences.items())
    return {
        "verdict": "exact" if exact else "wrong",
        **{name: float(f"{value:.1e}") for name, value in differences.items()},
    }
