"""Decide which models can run on packs, by their configuration and by what their layers do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verl_atpo.settings import ConfigError

FULL, WINDOW, STATE = "full_attention", "sliding_attention", "linear_attention"
DELTA_NETS = frozenset({"qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "olmo_hybrid"})
"""Models whose layers with a state are gated delta nets that :mod:`verl_atpo.packed.delta` runs."""
MULTIMODAL = frozenset(
    {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "gemma3", "mistral3"}
)
"""Models that read images, of which rows of text alone can be packed."""
LONGEST_POSITION = frozenset({"dynamic", "longrope"})
"""Kinds of rotary embedding that depend on the longest position of a forward pass."""
OWN_MIXING = {
    "attention_chunk_size": "its attention is chunked",
    "attn_logit_softcapping": "its attention scores are capped",
    "layers_block_type": "some of its layers are no attention",
    "block_types": "some of its layers are no attention",
    "hybrid_override_pattern": "some of its layers are no attention",
    "ssm_cfg": "its layers are state spaces",
    "index_topk": "its attention selects keys by an index",
    "router_jitter_noise": "its router adds noise",
    "input_jitter_noise": "its router adds noise",
}
"""Settings of configurations that, where they are set, let tokens meet in a way that packs do not have."""
OWN_MASK = frozenset({"doge"})
"""Models whose layers make masks of their own from what they attend to."""
REGISTRY = "ALL_ATTENTION_FUNCTIONS"
"""Name under which transformers' models look up their attention."""
NOT_CAUSAL = {
    "is_encoder_decoder": "it has an encoder",
    "use_bidirectional_attention": "its attention is not causal",
    "alibi": "its attention has a bias by distance",
}
DROPOUT = ("dropout", "pdrop", "dropout_prob")
NO_DROPOUT = ("classifier_dropout", "summary_first_dropout", "summary_dropout_prob", "classifier_dropout_prob")


def check_model(config: Any) -> None:
    """Refuse a model whose hidden states depend on more than a token's ancestors and their positions.

    Args:
        config: its configuration, of transformers.

    Raises:
        ConfigError: says what is in the way.
    """
    if found := list(obstacles(config)):
        raise refusal(config, "; ".join(dict.fromkeys(found)))


def obstacles(config: Any) -> Iterator[str]:
    """List what in a configuration keeps a model from being packed."""
    text = config.get_text_config()
    if not isinstance(getattr(text, "num_hidden_layers", None), int):
        yield "its configuration does not say how many layers it has"
        return
    if text is not config and config.model_type not in MULTIMODAL:
        yield "it reads images or audio, and its text part was not tried"
    if config.model_type in OWN_MASK:
        yield "its layers make masks of their own"
    if {FULL, WINDOW} & set(layer_types(text)) and has_own_attention(text):
        yield "its layers accept no attention but their own"
    for name, why in (OWN_MIXING | NOT_CAUSAL).items():
        if getattr(text, name, None):
            yield why
    if other := sorted(set(layer_types(text)) - {FULL, WINDOW, STATE}):
        yield f"its layers are {', '.join(other)}"
    if STATE in layer_types(text) and config.model_type not in DELTA_NETS:
        yield "its layers of linear attention are not those of a known gated delta net"
    if kinds := sorted(LONGEST_POSITION & set(rope_kinds(text))):
        yield f"its rotary embedding ({', '.join(kinds)}) depends on the longest position of a forward pass"
    for name, value in vars(text).items():
        if name.endswith(DROPOUT) and name not in NO_DROPOUT and isinstance(value, float) and value > 0:
            yield (f"it has dropout ({name}={value}; set +actor_rollout_ref.model.override_config.{name}=0.0)")


def has_own_attention(text: Any) -> bool:
    """Return whether transformers' code of a model never asks for an attention that others can register.

    The module that defines the layers is read and not imported; False where it is not beside the configuration's.
    """
    folder, kind = Path(inspect.getfile(type(text))).parent, type(text).__module__.rpartition(".")[2]
    file = folder / f"{kind.replace('configuration_', 'modeling_', 1)}.py"
    return kind.startswith("configuration_") and file.is_file() and REGISTRY not in file.read_text(encoding="utf-8")


def layer_types(text: Any) -> list[str]:
    """List the kind of each layer; without a list all layers have the window that the configuration names."""
    if listed := getattr(text, "layer_types", None):
        return list(listed)
    windowed = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return [WINDOW if windowed else FULL] * text.num_hidden_layers


def rope_kinds(text: Any) -> list[str]:
    """Kinds of rotary embedding, of which a model can have one for each kind of layer."""
    found: list[str] = []

    def collect(parameters: Any) -> None:
        if isinstance(parameters, Mapping):
            found.extend(str(parameters[key]) for key in ("rope_type", "type") if key in parameters)
            for value in parameters.values():
                collect(value)

    for name in ("rope_parameters", "rope_scaling"):
        collect(getattr(text, name, None))
    return found


def check_layers(calls: Mapping[str, int], config: Any) -> None:
    """Refuse a model whose layers did not all do, in a forward pass, what its configuration says.

    Args:
        calls: number of times that layers asked for full attention, a window, states.
        config: config of the model.

    Raises:
        ConfigError: some layers mix tokens in another way.
    """
    kinds = layer_types(config.get_text_config())
    expected = {"full": kinds.count(FULL), "window": kinds.count(WINDOW), "state": kinds.count(STATE)}
    if dict(calls) != expected:
        names = {"full": "full attention", "window": "a window", "state": "a state"}
        listed = [
            f"{calls[key]} of {expected[key]} layers with {names[key]}" for key in names if calls[key] != expected[key]
        ]
        raise refusal(config, f"{', '.join(listed)} use transformers' interfaces")


def refusal(config: Any, why: str) -> ConfigError:
    """Make the error that refuses a model."""
    return ConfigError(
        f"the model {config.model_type} cannot be trained on packed rows: {why}; leave out +train=packed."
    )
