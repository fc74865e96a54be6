"""A check at load: two rows that share a prefix, packed, against the same rows run apart with plain attention.

A model whose layers mix tokens in a way that neither its configuration nor its layers' arguments show would otherwise
be trained on wrong numbers without a sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from verl_atpo.packed.attention import NAME, RUNNING
from verl_atpo.packed.head import Scoring
from verl_atpo.packed.models import check_layers, refusal
from verl_atpo.packed.trie import build_trie
from verl_atpo.packed.visibility import Visibility

PREFIX, ENDS = 70, (20, 12)
"""Tokens that the rows share, and each row's own."""
LONGEST_WINDOW = 512
"""A window up to this is exceeded by the shared prefix."""
TOLERANCE = {torch.float32: 1e-3}
COARSE = 0.1
"""Median difference of a log-probability over its spread, in float32 and in a coarser type."""


def probe(module: Any, model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Compare packed log-probabilities with those of the model's own forward pass; all ranks take part.

    Args:
        module: module that is called, the model as verl has wrapped it.
        model: model of transformers.
        dtype: in which it computes.
        device: where it computes.

    Raises:
        ConfigError: they differ, or a layer wants what packs do not have.
    """
    prefix, ends = probe_rows(model.config)
    rows = [prefix + end for end in ends]
    try:
        packed = _packed(module, rows, len(prefix), device)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise refusal(model.config, str(error)) from error
    check_layers(packed.pop("calls"), model.config)
    apart = [_apart(module, model, row, len(prefix), device) for row in rows]
    for number, (found, wanted) in enumerate(zip(packed["log_probs"], apart, strict=True)):
        spread = wanted.std().clamp(min=1e-3)
        difference = float(((found - wanted).abs() / spread).median())
        if not difference < TOLERANCE.get(dtype, COARSE):
            raise refusal(
                model.config,
                f"the log-probabilities of two rows that share {len(prefix)} tokens differ from those of the rows run "
                f"apart (row {number + 1}: by {difference:.2g} of their spread)",
            )


def probe_rows(config: Any) -> tuple[list[int], list[list[int]]]:
    """Make a shared prefix, longer than a short window, and two ends, without ids that the configuration names."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) or 0
    length = max(PREFIX, window + 8) if window <= LONGEST_WINDOW else PREFIX
    special = {
        value
        for one in (config, text)
        for name, value in vars(one).items()
        if "token" in name and isinstance(value, int)
    }
    random = np.random.default_rng(0)
    known = [token for token in range(min(text.vocab_size, 2000)) if token not in special]

    def draw(count: int) -> list[int]:
        return random.choice(known, count).tolist()

    return draw(length), [draw(count) for count in ENDS]


def _packed(module: Any, rows: list[list[int]], shared: int, device: torch.device) -> dict[str, Any]:
    """Log-probabilities of each row's own tokens in one pack, and what the layers asked for."""
    trie = build_trie(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))
    visibility = Visibility(trie, device)
    slots = np.split(trie.slot_T, [len(rows[0])])
    targets = np.concatenate([slot[shared:] for slot in slots])
    padding = visibility.tokens - len(trie)

    def on_device(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    RUNNING.visibility = visibility
    try:
        scores = module(
            input_ids=on_device(np.pad(trie.token_N, (0, padding)))[None],
            position_ids=on_device(np.pad(trie.depth_N, (0, padding)))[None],
            use_cache=False,
            scoring=Scoring(on_device(trie.parent_N[targets]), on_device(trie.token_N[targets])),
        )
    finally:
        RUNNING.visibility = None
    return {"log_probs": scores["log_probs"].split([len(row) - shared for row in rows]), "calls": visibility.calls}


def _apart(module: Any, model: Any, row: list[int], shared: int, device: torch.device) -> torch.Tensor:
    """Log-probabilities of one row's own tokens, by the model's own code with plain attention."""
    token = torch.tensor([row], device=device)
    with _plain_attention(model):
        logits = module(
            input_ids=token, position_ids=torch.arange(len(row), device=device)[None], use_cache=False
        ).logits[0]
    log_p = logits[shared - 1 : -1].float().log_softmax(-1)
    return log_p.gather(-1, token[0, shared:, None]).squeeze(-1)


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    text = model.config.get_text_config()
    text._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        text._attn_implementation_internal = NAME
