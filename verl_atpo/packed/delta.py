"""Gated delta nets over a trie: the state at a fork goes to every child, the short convolution reads ancestors.

A layer's own forward pass is unchanged (Qwen3-Next, Qwen3.5, OLMo-Hybrid in transformers, and verl's version of it).
Only the two operations that mix tokens are replaced on each layer: the causal convolution and the delta rule. The rule
runs over stretches without a fork, level by level: those of one nesting in one call, each from its parent's last state.

With transformers' torch rule stretches of similar lengths are padded to one batch, and short ones are computed in
smaller chunks. A token with no decay and no update (``g = 0``, ``beta = 0``) leaves the state as it is. A kernel
(`fla`) gets all stretches of a level at once, with their offsets as ``cu_seqlens``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers.activations import ACT2FN

from verl_atpo.packed.attention import RUNNING
from verl_atpo.packed.visibility import Level, Visibility

Rule = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


CHUNKS = {64: 16, 256: 32}
"""Longest stretch of a batch -> tokens that transformers' rule computes at once; its own 64 for longer ones."""


def is_delta_net(module: torch.nn.Module) -> bool:
    """Return whether a layer is a gated delta net that can run over a trie."""
    return type(module).__name__.endswith("GatedDeltaNet") and hasattr(module, "chunk_gated_delta_rule")


def run_over_tries(model: torch.nn.Module) -> int:
    """Replace the operations that mix tokens in all gated delta nets of a model.

    Returns:
        How many such layers there are.
    """
    layers = [module for module in model.modules() if is_delta_net(module)]
    for layer in layers:
        _replace_rule(layer)
        _replace_convolution(layer)
    return len(layers)


def _replace_rule(layer: Any) -> None:
    original: Rule = layer.chunk_gated_delta_rule
    kernel = not original.__module__.startswith("transformers.")

    def rule(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, g: torch.Tensor, beta: torch.Tensor, **more: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        visibility = RUNNING.visibility
        if visibility is None:
            return original(query, key, value, g=g, beta=beta, **more)
        visibility.calls["state"] += 1
        options = {"use_qk_l2norm_in_kernel": more.get("use_qk_l2norm_in_kernel", False)}
        return delta_rule(original, kernel, (query, key, value, g, beta), visibility, options), None

    layer.chunk_gated_delta_rule = rule


def _replace_convolution(layer: Any) -> None:
    if hasattr(layer, "q_conv1d"):  # one convolution each for queries, keys and values
        for convolution in (layer.q_conv1d, layer.k_conv1d, layer.v_conv1d):
            _replace_forward(convolution)
        return
    original = layer.causal_conv1d_fn

    def convolve(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str, **more: Any
    ) -> torch.Tensor:
        visibility = RUNNING.visibility
        if visibility is not None:
            return ancestor_convolution(x, weight, bias, activation, visibility)
        if original is not None:
            return original(x=x, weight=weight, bias=bias, activation=activation, **more)
        return functional.silu(layer.conv1d(x)[:, :, : x.shape[-1]])

    layer.causal_conv1d_fn = convolve


def _replace_forward(convolution: Any) -> None:
    original = convolution.forward

    def forward(hidden: torch.Tensor, *args: Any, **more: Any) -> Any:
        visibility = RUNNING.visibility
        if visibility is None:
            return original(hidden, *args, **more)
        weight = convolution.weight.squeeze(1)
        x = hidden.transpose(1, 2)
        return ancestor_convolution(x, weight, convolution.bias, "silu", visibility).transpose(1, 2), None

    convolution.forward = forward


def ancestor_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str, visibility: Visibility
) -> torch.Tensor:
    """Convolve each token with its nearest ancestors, which in a row are the tokens before it.

    Args:
        x: (1, channels, tokens).
        weight: (channels, taps); the last tap is the token's own.
        bias: (channels), or None.
        activation: its name in transformers.
        visibility: ancestors of each token.

    Returns:
        (1, channels, tokens).
    """
    taps = weight.shape[-1]
    padded = functional.pad(x[0], (0, 1))  # zeros before a row's first token
    near = visibility.ancestors(taps)
    mixed = sum(padded.index_select(1, near[tap]) * weight[:, taps - 1 - tap, None] for tap in range(taps))
    if bias is not None:
        mixed = mixed + bias[:, None]
    return ACT2FN[activation](mixed)[None]


def delta_rule(
    rule: Rule, kernel: bool, inputs: tuple[torch.Tensor, ...], visibility: Visibility, options: dict[str, Any]
) -> torch.Tensor:
    """Run the gated delta rule over a trie.

    Args:
        rule: function of transformers, or of `fla`.
        kernel: whether it takes ``cu_seqlens``.
        inputs: query, key, value (1, tokens, heads, size), g and beta (1, tokens, heads).
        visibility: the trie.
        options: further arguments of the rule.

    Returns:
        (1, tokens, heads, value size); zero for padding.
    """
    outputs: list[torch.Tensor] = []
    tokens: list[torch.Tensor] = []
    states: torch.Tensor | None = None  # of all stretches so far, each after its last token
    run = _run_kernel if kernel else _run_batches
    for level in visibility.levels:
        initial = None if level.origin is None or states is None else states.index_select(0, level.origin)
        parts = tuple(each[0].index_select(0, level.token) for each in inputs)
        output, final = run(rule, parts, level, initial, options)
        states = final if states is None else torch.cat([states, final])
        outputs.append(output)
        tokens.append(level.token)
    order = torch.cat(tokens).argsort()
    result = torch.cat(outputs).index_select(0, order)
    return functional.pad(result, (0, 0, 0, 0, 0, visibility.tokens - len(result)))[None]


def _run_kernel(
    rule: Rule, parts: tuple[torch.Tensor, ...], level: Level, initial: torch.Tensor | None, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    query, key, value, g, beta = (each[None] for each in parts)
    output, final = rule(
        query, key, value, g=g, beta=beta, initial_state=initial, output_final_state=True,
        cu_seqlens=level.offsets_tensor, **options,
    )  # fmt: skip
    assert final is not None
    return output[0], final


def _run_batches(
    rule: Rule, parts: tuple[torch.Tensor, ...], level: Level, initial: torch.Tensor | None, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a rule that takes equal lengths, in batches whose lengths differ by less than a factor of two."""
    spans = list(zip(level.offsets, level.offsets[1:], strict=False))
    batches: dict[int, list[int]] = {}
    for number, (begin, stop) in enumerate(spans):
        batches.setdefault((stop - begin).bit_length(), []).append(number)
    outputs: list[torch.Tensor] = [parts[2]] * len(spans)
    finals: list[torch.Tensor] = [parts[2]] * len(spans)
    for members in batches.values():
        query, key, value, g, beta = (
            torch.nn.utils.rnn.pad_sequence([each[slice(*spans[number])] for number in members], batch_first=True)
            for each in parts
        )
        start = None if initial is None else initial[members]
        output, final = rule(
            query, key, value, g=g, beta=beta, initial_state=start, output_final_state=True,
            chunk_size=chunk_of(query.shape[1]), **options,
        )  # fmt: skip
        assert final is not None
        for place, number in enumerate(members):
            begin, stop = spans[number]
            outputs[number], finals[number] = output[place, : stop - begin], final[place]
    return torch.cat(outputs), torch.stack(finals)


def chunk_of(longest: int) -> int:
    """Choose the chunk of transformers' rule, which pads to it and takes a step of Python for each of its tokens.

    Args:
        longest: tokens of the batch's longest stretch.
    """
    return next((chunk for most, chunk in CHUNKS.items() if longest <= most), 64)
