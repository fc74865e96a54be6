"""Difference of log-probs between decoding and a forward pass over the same tokens, turn by turn.

    python -m benchmarks.mismatch MODEL [--samples 18] [--tokens 30]

The engine decodes token by token with a cache, the trainer runs over whole rows; in low precision the two round
differently. Under ``algorithm.rollout_correction.bypass_mode`` the difference is part of the ratio that the loss clips
(``startup/objective.py`` warns of it). Here transformers does both; a real engine has kernels of its own besides.
Writes ``benchmarks/results/mismatch.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tabulate import tabulate
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

RESULT = Path(__file__).parent / "results" / "mismatch.json"
PROMPTS = ("What is 17 + 25?", "Name a river in France.", "Who wrote Hamlet?")
CLIP = 0.003


@torch.no_grad()
def differences(model: PreTrainedModel, prompt_ids: torch.Tensor, tokens: int) -> torch.Tensor:
    """Log-prob under a forward pass minus log-prob when it was decoded, of every sampled token, (samples, tokens)."""
    sampled, decoded, seen, cache = prompt_ids, [], prompt_ids, None
    for _ in range(tokens):
        step = model(seen, past_key_values=cache, use_cache=True)
        cache, log_probs = step.past_key_values, step.logits[:, -1].float().log_softmax(-1)
        seen = torch.multinomial(log_probs.exp(), 1)
        decoded.append(log_probs.gather(1, seen))
        sampled = torch.cat([sampled, seen], dim=1)
    start = prompt_ids.shape[1]
    log_probs = model(sampled).logits[:, start - 1 : -1].float().log_softmax(-1)
    return log_probs.gather(2, sampled[:, start:, None])[..., 0] - torch.cat(decoded, dim=1)


def measure(folder: str, dtype: torch.dtype, samples: int, tokens: int) -> dict[str, float]:
    """Differences of a model's log-ratios from 0: mean and largest over turns, share beyond the clip range."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    found = []
    for prompt in PROMPTS:
        message = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).input_ids
        found.append(differences(model, ids.repeat(samples // len(PROMPTS), 1), tokens))
    of_token = torch.cat(found)
    of_turn = of_token.mean(dim=1).abs()
    return {
        "turn_mean": of_turn.mean().item(),
        "turn_largest": of_turn.max().item(),
        "turns_beyond_clip": (of_turn > CLIP).float().mean().item(),
        "token_mean": of_token.abs().mean().item(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mismatch", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or name of a chat model")
    parser.add_argument("--samples", type=int, default=18, help="turns sampled")
    parser.add_argument("--tokens", type=int, default=30, help="tokens of a turn")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the figures go")
    options = parser.parse_args(arguments)
    rows = {
        str(dtype).removeprefix("torch."): measure(options.model, dtype, options.samples, options.tokens)
        for dtype in (torch.float32, torch.bfloat16)
    }
    settings = {"model": Path(options.model).name, "samples": options.samples, "tokens": options.tokens, "clip": CLIP}
    options.out.write_text(json.dumps({"settings": settings, "types": rows}, indent=1) + "\n")
    print(tabulate([[name, *row.values()] for name, row in rows.items()], ["type", *rows["float32"]], floatfmt=".2g"))


if __name__ == "__main__":
    main()
