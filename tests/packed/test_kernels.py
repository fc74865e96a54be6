"""The Triton kernels that torch generates for packs: their footprint on chips, and their numbers in the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from tests.assets.kernel_inputs import tree_of
from tests.assets.python_path import PYTHON_PATH, ROOT
from verl_atpo.packed.attention import DIVISIBLE
from verl_atpo.packed.visibility import Visibility

pytest.importorskip("triton.backends.nvidia", reason="Triton is not installed, or without its compiler for CUDA")

CPU = torch.device("cpu")
TOLERANCE = 1e-5
"""Relative to the norm, in float32."""
MOST_STACK = 800
"""Bytes a thread that may not fit into registers; 1,016 without the promise that packs are multiples of the block."""
HEADS = (8, 2, 128)
"""Heads, key heads and size."""


def call_of(tokens: int) -> tuple[list[torch.Tensor], dict[str, object]]:
    """Arguments of a call with a pack of about so many tokens, in bfloat16."""
    blocks = Visibility(tree_of(tokens)[0], CPU, blocks=True)
    heads, key_heads, size = HEADS
    shapes = [(1, count, blocks.tokens, size) for count in (heads, key_heads, key_heads)]
    tensors = [torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    options = {"scale": 0.1, "enable_gqa": True, "kernel_options": DIVISIBLE}
    return tensors, {"block_mask": blocks.block_mask(None), **options}


@pytest.mark.parametrize("number", [90, 120])
def test_kernels_fit_a_chip_and_hardly_spill(number, tmp_path):
    from tests.assets.pretended_gpu import CHIPS, PretendedGpu

    gpu = PretendedGpu(CHIPS[number], tmp_path)
    gpu.generate(flex_attention, [call_of(600), call_of(1300)])
    assert len(gpu.programs) == 2  # forward and backward
    found = [each for program in gpu.programs for each in gpu.footprints(program)]
    attention = [each for each in found if "flex_attention" in each.kernel]
    assert len(attention) == 3  # two backward, one of them for the sums that the pass begins with
    assert max(each.shared for each in found) > 32 << 10  # otherwise nothing was looked at
    assert all(each.shared <= gpu.chip.shared and each.stack <= MOST_STACK for each in found), found


def test_interpreted_kernels_equal_the_cpus_attention(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHON_PATH}
    command = [sys.executable, "-W", "ignore", "-m", "tests.assets.interpreted_flex", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kernels = [line for line in lines if "size" in line]
    assert {(line["size"], line["group"]) for line in kernels} == {(64, 1), (96, 2), (128, 3), (256, 7)}
    assert all(0 < max(line["errors"]) < TOLERANCE and len(line["errors"]) == 4 for line in kernels), kernels
