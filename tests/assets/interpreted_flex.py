"""The packs' attention on generated Triton kernels, in Triton's interpreter: errors as JSON.

    TRITON_INTERPRET=1 python -m tests.assets.interpreted_flex FOLDER

A program of its own, since Triton reads the variable when it is imported. Prints a line a case: the errors of outputs
and gradients relative to the norm of the CPU's.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from unittest import mock

import torch
import triton
from torch.nn.attention.flex_attention import flex_attention

from tests.assets.kernel_inputs import tree_of
from tests.assets.pretended_gpu import CHIPS, PretendedGpu
from verl_atpo.packed import attention
from verl_atpo.packed.attention import RUNNING, trie_attention
from verl_atpo.packed.visibility import Visibility

CPU = torch.device("cpu")
SHAPES = {(64, 1): None, (96, 2): None, (128, 3): 90, (256, 7): None}
"""Size of a head and queries a key -> window; with a window there are sinks too."""
TOKENS = 200


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


def main(folder: Path) -> None:
    """All cases."""
    assert triton.knobs.runtime.interpret, "set TRITON_INTERPRET=1"
    gpu = PretendedGpu(CHIPS[90], folder)
    for (size, group), window in SHAPES.items():
        with mock.patch.object(attention, "flex_attention", gpu.compile(flex_attention)):  # anew, as for one model
            line = {"size": size, "group": group, "errors": kernel_errors(TOKENS, size, group, window)}
            print(json.dumps(line), flush=True)
    print(json.dumps({"processor seconds": time.process_time()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
