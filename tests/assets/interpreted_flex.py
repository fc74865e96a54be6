"""The packs' attention and whole models on generated Triton kernels, in Triton's interpreter: errors as JSON.

    TRITON_INTERPRET=1 python -m tests.assets.interpreted_flex FOLDER

A program of its own, since Triton reads the variable when it is imported. Prints a line a case: the errors of outputs
and gradients relative to the norm of the CPU's.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch.nn.attention.flex_attention import flex_attention

from tests.assets.families import packed_results, tiny_config
from tests.assets.gradients import gradient_error
from tests.assets.kernel_inputs import tree_of
from tests.assets.packed_rows import random_trees
from tests.assets.pretended_gpu import CHIPS, PretendedGpu
from verl_atpo.packed import attention, rows
from verl_atpo.packed.attention import RUNNING, trie_attention
from verl_atpo.packed.visibility import Visibility

CPU = torch.device("cpu")
SHAPES = {(64, 1): (None, (200, 330)), (96, 2): (None, (200,)), (128, 3): (90, (200,)), (256, 7): (None, (200,))}
"""Size of a head and queries a key -> window and sizes of packs, of which a second one is compiled for any size."""
MODELS = {
    "qwen3": {"head_dim": 16},
    "gpt_oss": {
        "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}  # fmt: skip
"""Kinds of models: plain ones, and ones with windows and sinks."""


def attend(visibility: Visibility, tensors: list[torch.Tensor], window: int | None, sinks: torch.Tensor | None) -> list:
    """Output and gradients of the packs' attention."""
    RUNNING.visibility = visibility
    try:
        output = trie_attention(torch.nn.Identity(), *tensors, None, sliding_window=window, s_aux=sinks)[0]
    finally:
        RUNNING.visibility = None
    output = output[:, : len(visibility.trie)]
    weight = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    return [output, *torch.autograd.grad((output * weight).sum(), tensors)]


def kernel_errors(tokens: int, size: int, group: int, window: int | None) -> list[float]:
    """Errors of output and gradients against the CPU's attention."""
    trie, _ = tree_of(tokens)
    blocks = Visibility(trie, CPU, blocks=True)
    torch.manual_seed(size)
    tensors = [torch.randn(1, heads, blocks.tokens, size) for heads in (group, 1, 1)]
    sinks = torch.randn(group) if window else None
    found = attend(blocks, [each.requires_grad_() for each in tensors], window, sinks)
    short = [each.detach()[:, :, : len(trie)].requires_grad_() for each in tensors]
    right = attend(Visibility(trie, CPU), short, window, sinks)
    found[1:] = [each[:, :, : len(trie)] for each in found[1:]]
    return [relative(ours, other) for ours, other in zip(found, right, strict=True)]


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    """Difference over the norm."""
    return float((found - right).detach().norm() / right.detach().norm())


def model_errors(kind: str) -> dict[str, float]:
    """Errors of a model's log-probs, entropies and gradients against the same packs on the CPU's attention."""
    config, trees = tiny_config(kind, MODELS[kind]), random_trees(0)
    right = packed_results(config, trees)
    with mock.patch.object(rows, "Visibility", functools.partial(Visibility, blocks=True)):
        found = packed_results(config, trees)
    scores = {name: relative(found[name], right[name]) for name in ("log_probs", "entropy")}
    return {**scores, "gradients": gradient_error(found, right)}


def main(folder: Path) -> None:
    """All cases."""
    assert triton.knobs.runtime.interpret, "set TRITON_INTERPRET=1"
    gpu = PretendedGpu(CHIPS[90], folder)

    def compiled() -> Any:
        """Replace the packs' FlexAttention by one compiled anew, as for one model."""
        return mock.patch.object(attention, "flex_attention", gpu.compile(flex_attention))

    for (size, group), (window, sizes) in SHAPES.items():
        with compiled():
            for tokens in sizes:
                errors = kernel_errors(tokens, size, group, window)
                print(json.dumps({"size": size, "group": group, "tokens": tokens, "errors": errors}), flush=True)
    for kind in MODELS:
        with compiled():
            print(json.dumps({"model": kind, **model_errors(kind)}), flush=True)
    print(json.dumps({"programs": len(gpu.programs)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
