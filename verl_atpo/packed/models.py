"""Which models can run on packs: those whose tokens meet in plain causal attention and nowhere else."""

from __future__ import annotations

from typing import Any

from verl_atpo.settings import ConfigError


def check_model(config: Any) -> None:
    """Refuse a model whose hidden states depend on more than a token's ancestors and their positions.

    Args:
        config: its configuration, of transformers.

    Raises:
        ConfigError: says what is in the way.
    """
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    obstacles = {
        "it reads images or audio": config.get_text_config() is not config,
        "it has an encoder": getattr(config, "is_encoder_decoder", False),
        f"its layers are {', '.join(sorted(layers))}": layers != {"full_attention"},
        "its attention has a window": getattr(config, "sliding_window", None) and not hasattr(config, "layer_types"),
        "its attention is chunked": getattr(config, "attention_chunk_size", None),
        "its attention has dropout": getattr(config, "attention_dropout", 0.0),
        "its attention scores are capped": getattr(config, "attn_logit_softcapping", None),
    }
    if found := [what for what, stands in obstacles.items() if stands]:
        raise _refusal(config, "; ".join(found))


def check_layers(calls: int, config: Any) -> None:
    """Refuse a model whose layers did not all ask for the trie's attention in a forward pass.

    Raises:
        ConfigError: some layers mix tokens in another way.
    """
    if calls != config.num_hidden_layers:
        raise _refusal(
            config, f"{calls} of its {config.num_hidden_layers} layers use transformers' attention interface"
        )


def _refusal(config: Any, why: str) -> ConfigError:
    return ConfigError(
        f"the model {config.model_type} cannot be trained on packed rows, which need plain causal attention in every "
        f"layer: {why}; leave out +train=packed."
    )
