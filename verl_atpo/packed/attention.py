"""Attention over a trie in the form that transformers asks for: each token sees its ancestors and itself.

On a CPU it runs piece by piece (:mod:`verl_atpo.packed.flash_pieces`), on an accelerator it is FlexAttention with a
block mask. The function is registered with transformers as :data:`NAME`; which tokens see which it takes from
:data:`RUNNING`, since not every model hands further arguments on to its layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import AuxRequest, flex_attention
from transformers import AttentionInterface

from verl_atpo.packed.flash_pieces import PieceAttention
from verl_atpo.packed.visibility import Visibility

NAME = "verl_atpo_trie"
"""Name among transformers' attention implementations."""
DIVISIBLE = {"IS_DIVISIBLE": True}
"""Packs are multiples of the block, which a compiled kernel cannot see in a dynamic shape."""
NOT_MEANT = frozenset(
    {"softcap", "head_mask", "attention_bias", "position_bias", "alibi", "indices", "block_indices", "sparse_mask"}
)
"""Arguments of layers that change what is computed, and that are refused."""


class Running:
    """The pack that this process runs, for a forward and its backward pass.

    Attributes:
        visibility: tokens that each of its tokens sees; None where rows run as in any other program.
    """

    visibility: Visibility | None = None


RUNNING = Running()
_compiled = torch.compile(flex_attention)


class NotPackable(ValueError):
    """A layer computes something that packs do not hold."""


def trie_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over the trie of the pack that runs.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, size).
        key: (1, key heads, tokens, size).
        value: as ``key``; its size may differ.
        attention_mask: None.
        scaling: factor of the scores, by default one over the root of the size.
        dropout: probability, which must be 0.
        sliding_window: a token sees those less than this many tokens before it; None for all.
        s_aux: (heads) scores of attention sinks.
        **kwargs: other attention options; those that change what is computed are rejected.

    Returns:
        (1, tokens, heads, size), and no weights.

    Raises:
        NotPackable: the layer wants anything else.
    """
    visibility = RUNNING.visibility
    if visibility is None:
        raise NotPackable(f"{type(module).__name__} ran outside of a pack, but has the attention of packs.")
    check_arguments(module, query, attention_mask, dropout, visibility, kwargs)
    visibility.calls["full" if sliding_window is None else "window"] += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    attend = _flex if visibility.blocks else _flash
    return attend(query, key, value, s_aux, visibility, sliding_window, scale).transpose(1, 2), None


AttentionInterface.register(NAME, trie_attention)


def check_arguments(
    module: torch.nn.Module,
    query: torch.Tensor,
    mask: Any,
    dropout: float,
    visibility: Visibility,
    more: dict[str, Any],
) -> None:
    """Refuse what packed attention does not compute.

    Raises:
        NotPackable: names the layer and the reason.
    """
    unusual = sorted(name for name in NOT_MEANT if more.get(name) is not None)
    for wrong, why in (
        (mask is not None, "hands a mask of its own to its attention"),
        (bool(dropout), f"has attention dropout ({dropout})"),
        (bool(unusual), f"uses {', '.join(unusual)}"),
        (more.get("is_causal") is False or getattr(module, "is_causal", True) is False, "is not causal"),
        (query.shape[0] != 1 or query.shape[2] != visibility.tokens,
         f"attends over {tuple(query.shape[::2])} rows and tokens where the pack has (1, {visibility.tokens})"),
    ):  # fmt: skip
        if wrong:
            raise NotPackable(
                f"{type(module).__name__} {why}, so its rows cannot be packed; leave out +train=packed for this model."
            )


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None, visibility: Visibility,
    window: int | None, scale: float,
) -> torch.Tensor:  # fmt: skip
    """Attention on a CPU, whose kernel wants queries and values of one size."""
    size, missing = value.shape[-1], query.shape[-1] - value.shape[-1]
    if missing > 0:
        value = functional.pad(value, (0, missing))
    elif missing < 0:
        query, key = functional.pad(query, (0, -missing)), functional.pad(key, (0, -missing))
    return PieceAttention.apply(query, key, value, sinks, visibility.pieces(window), scale)[..., :size]


def _flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None, visibility: Visibility,
    window: int | None, scale: float,
) -> torch.Tensor:  # fmt: skip
    """Attention on an accelerator; uncompiled on a CPU, for tests."""
    attend: Any = flex_attention if query.device.type == "cpu" else _compiled
    found = attend(
        query, key, value,
        block_mask=visibility.block_mask(window),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=DIVISIBLE,
        return_aux=None if sinks is None else AuxRequest(lse=True),
    )  # fmt: skip
    if sinks is None:
        return found
    output, auxiliary = found
    share = torch.sigmoid(auxiliary.lse - sinks.float()[None, :, None])  # of all but the sink
    return (output * share.unsqueeze(-1)).to(output.dtype)
