"""The packs' own kernels on a device, without verl: `python -m benchmarks.packed.kernels [--rehearse]`.

    python -m benchmarks.packed.kernels [--tokens 8192 16384 32768] [--repeats 5] [--out FILE.json] [--rehearse]

Attention, gated delta rule and head on one pack of a tree: first against float64 on the CPU, then timed. Attention is
timed by FlexAttention, by variable-length calls joined by log-sum-exp (`benchmarks.packed.levels`), and for the rows
apart (torch's `varlen_attn`). How often FlexAttention was compiled for all sizes is counted. `--rehearse` runs all but
the timings on a CPU, uncompiled and small. Exits with 1 where numbers differ. Writes
`benchmarks/results/packed_kernels.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

from tests.assets.attention_calls import attend as attend_in_calls
from tests.assets.attention_calls import calls, dense_kernel, varlen, varlen_kernel
from tests.assets.kernel_inputs import inputs, tree_of
from verl_atpo.packed.attention import RUNNING, trie_attention
from verl_atpo.packed.delta import delta_rule
from verl_atpo.packed.head import Scoring, score
from verl_atpo.packed.trie import Trie
from verl_atpo.packed.visibility import Visibility

RESULT = Path(__file__).parents[1] / "results" / "packed_kernels.json"
SHAPES = {"0.6B": (16, 8, 128), "4B": (32, 8, 128), "head 64": (12, 4, 64), "head 256": (8, 2, 256)}
"""Heads, key heads, size."""
WINDOW = 1024
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Tolerance, relative to the norm."""
LAYER = torch.nn.Identity()


def attend(visibility: Visibility, tensors: list[torch.Tensor], window: int | None, sinks: torch.Tensor | None) -> Any:
    """The packs' attention."""
    RUNNING.visibility = visibility
    try:
        return trie_attention(LAYER, *tensors, None, sliding_window=window, s_aux=sinks)[0]
    finally:
        RUNNING.visibility = None


def attention_error(
    trie: Trie, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, window: int | None
) -> float:
    """Largest error of output and gradients against the CPU's pieces in float64, of the norm."""
    blocks = Visibility(trie, device, blocks=True)
    tensors = inputs(blocks.tokens, shape, device, dtype)
    sinks = torch.randn(shape[0], device=device) if window else None
    output = attend(blocks, tensors, window, sinks)[:, : len(trie)]
    exact = [each.detach().cpu().double()[:, :, : len(trie)].requires_grad_() for each in tensors]
    wanted = attend(
        Visibility(trie, torch.device("cpu")), exact, window, None if sinks is None else sinks.cpu().double()
    )
    pairs = [(output, wanted)]
    if tensors[0].requires_grad:
        own = torch.autograd.grad(output.float().square().sum(), tensors)
        right = torch.autograd.grad(wanted.square().sum(), exact)
        pairs += [(each[:, :, : len(trie)], other) for each, other in zip(own, right, strict=True)]
    return max(relative(found, right) for found, right in pairs)


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    """Difference over the norm."""
    return float((found.detach().cpu().double() - right.detach()).norm() / right.detach().norm())


def calls_error(trie: Trie, shape: tuple[int, int, int], device: torch.device) -> float:
    """Error of attention by variable-length calls, with dense ones on a CPU, against the CPU's pieces in float64."""
    dtype, kernel = (torch.float32, dense_kernel) if device.type == "cpu" else (torch.bfloat16, varlen_kernel)
    tensors = inputs(len(trie), shape, device, dtype)
    query, key, value = (each[0].transpose(0, 1) for each in tensors)
    found = attend_in_calls(calls(trie), query, key, value, kernel)
    exact = [each.detach().cpu().double() for each in tensors]
    return relative(found, attend(Visibility(trie, torch.device("cpu")), exact, None, None)[0])


def delta_error(trie: Trie, device: torch.device) -> float:
    """The gated delta rule of the installed kernel, or transformers', over the trie against float32 on the CPU."""
    torch.manual_seed(0)
    shapes = [(1, len(trie), 4, 32)] * 3 + [(1, len(trie), 4)] * 2
    made = [torch.randn(shape) for shape in shapes]
    made[3], made[4] = -made[3].abs(), made[4].sigmoid()
    rule, kernel = torch_chunk_gated_delta_rule, False
    if device.type == "cuda":
        try:
            from fla.ops.gated_delta_rule import chunk_gated_delta_rule as rule  # type: ignore[no-redef]

            kernel = True
        except ImportError:
            print("fla is not installed: transformers' own rule")
    options = {"use_qk_l2norm_in_kernel": True}
    cpu = Visibility(trie, torch.device("cpu"))
    wanted = delta_rule(torch_chunk_gated_delta_rule, False, tuple(made), cpu, options)
    moved = tuple(each.to(device, torch.bfloat16 if kernel and each.dim() == 4 else torch.float32) for each in made)
    found = delta_rule(rule, kernel, moved, Visibility(trie, device, blocks=False), options)
    return relative(found, wanted.double())


def head_error(device: torch.device) -> float:
    """Scores of the chunked head against float64."""
    config = LlamaConfig(vocab_size=32000, hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(device)
    label = torch.randint(32000, (5000,), device=device)
    hidden = torch.randn(5000, 64, device=device)
    with torch.no_grad():
        found = score(model, hidden, Scoring(label, label, 0.7, entropy=True))
        log_p = (hidden.double() @ model.lm_head.weight.double().T / 0.7).log_softmax(-1)
    wanted = {"log_probs": log_p.gather(-1, label[:, None])[:, 0], "entropy": -(log_p.exp() * log_p).sum(-1)}
    return max(relative(found[name], wanted[name].cpu()) for name in wanted)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Shortest of some calls, after one that compiles."""
    call()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def timings(tokens: int, name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    """Forward and backward of attention over a pack, by FlexAttention and by calls, and over its rows apart."""
    trie, lengths = tree_of(tokens)
    blocks = Visibility(trie, device)
    packed = inputs(blocks.tokens, SHAPES[name], device, torch.bfloat16)
    rows = [each[0].transpose(0, 1).detach() for each in inputs(sum(lengths), SHAPES[name], device, torch.bfloat16)]
    repeat = SHAPES[name][0] // SHAPES[name][1]
    rows = [rows[0], *(each.repeat_interleave(repeat, 1) for each in rows[1:])]
    rows = [each.requires_grad_() for each in rows]
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)

    def apart() -> torch.Tensor:
        return varlen(*rows, ends, ends, max(lengths), max(lengths), causal=True)

    planned = calls(trie)
    by_calls = [each[0, :, : len(trie)].transpose(0, 1).detach().requires_grad_() for each in packed]

    def in_calls() -> torch.Tensor:
        return attend_in_calls(planned, *by_calls, varlen_kernel)

    found = {"tokens": len(trie), "row tokens": sum(lengths), "shape": name}
    measured = {"packed": lambda: attend(blocks, packed, None, None), "packed, calls": in_calls, "rows": apart}
    for key, call in measured.items():
        found[f"{key} forward, s"] = seconds(lambda call=call: call(), repeats)
        found[f"{key} forward and backward, s"] = seconds(lambda call=call: call().sum().backward(), repeats)
    return found


def errors(device: torch.device, tokens: int) -> Iterator[dict[str, Any]]:
    """Check all numbers that have to be right."""
    trie, _ = tree_of(tokens)
    for name, shape in SHAPES.items():
        for dtype, tolerance in TOLERANCES.items():
            for window in (None, min(WINDOW, tokens // 8)):
                error = attention_error(trie, shape, device, dtype, window)
                yield {"what": f"attention, {name}, {dtype}, window {window}", "error": error, "most": tolerance}
        yield {"what": f"attention by calls, {name}", "error": calls_error(trie, shape, device), "most": 2e-2}
    yield {"what": "gated delta rule", "error": delta_error(trie, device), "most": 2e-2}
    yield {"what": "head", "error": head_error(device), "most": 1e-4}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU: small, uncompiled, nothing is timed")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    device = torch.device("cpu" if options.rehearse else "cuda")
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --rehearse runs every line on a CPU")
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu, rehearsed"}
    result["torch"] = torch.__version__
    result["errors"] = list(errors(device, 300 if options.rehearse else 2000))
    print(tabulate(result["errors"], headers="keys", tablefmt="github"))
    if not options.rehearse:
        result["timings"] = [
            timings(tokens, name, device, options.repeats) for name in SHAPES for tokens in options.tokens
        ]
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        result["compilations"] = int(graphs)
        print(tabulate(result["timings"], headers="keys", tablefmt="github"))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(int(any(line["error"] > line["most"] for line in result["errors"])))


if __name__ == "__main__":
    main()
