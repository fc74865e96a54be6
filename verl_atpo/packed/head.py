"""Log-probabilities and entropies of the scored tokens, in chunks through the model's own head.

The decoder's hidden states of the scored tokens go chunk by chunk through the part of the model's forward pass that
follows its decoder, log-softmax and gather; in training a chunk is computed again in the backward pass. So no logits
of a whole pack are ever in memory, and a model's own code transforms its logits (scaling, soft caps).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CHUNK = 2**26
"""Logits that may be in memory at once: 256 MB in float32."""
Scores = dict[str, torch.Tensor]
Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass
class Scoring:
    """Request to a forward pass for the scores of some tokens. (Not frozen: FSDP copies frozen ones.)

    Attributes:
        parent_K: token of the pack whose logits predict each scored token.
        label_K: the scored tokens.
        temperature: temperature of the sampling.
        entropy: whether entropies are wanted.
        sum_pi_squared: whether the sum of the squared probabilities is wanted.
    """

    parent_K: torch.Tensor
    label_K: torch.Tensor
    temperature: float = 1.0
    entropy: bool = False
    sum_pi_squared: bool = False


def score_through_own_head(model: Any) -> None:
    """Let a causal language model of transformers score tokens when its forward pass is given ``scoring``.

    Other calls are not changed. Only this instance is.

    Args:
        model: the model, before it is wrapped by FSDP or an adapter's class.
    """
    module_class = type(model)

    def forward(
        input_ids: torch.Tensor | None = None, *args: Any, scoring: Scoring | None = None, **kwargs: Any
    ) -> Any:
        if scoring is None:
            return module_class.forward(model, input_ids, *args, **kwargs)
        inputs = {"position_ids": kwargs["position_ids"], "attention_mask": None, "use_cache": False}
        hidden = model.get_decoder()(input_ids=input_ids, **inputs)[0]
        return score(model, hidden[0].index_select(0, scoring.parent_K), scoring)

    model.forward = forward


def score(model: Any, hidden_KH: torch.Tensor, scoring: Scoring) -> Scores:
    """Score tokens from the hidden states of their parents.

    All chunks run inside one call of the model's head, since FSDP gathers its weights for a call: ranks have different
    numbers of chunks, but must gather together.

    Args:
        model: model of transformers.
        hidden_KH: (K, hidden size) the decoder's outputs.
        scoring: requested quantities.

    Returns:
        float32 of shape (K): ``log_probs``, and ``entropy`` and ``sum_pi_squared`` where wanted.
    """
    head = model.get_output_embeddings()
    plain: Logits = getattr(head, "plain_forward", None) or head.forward

    def forward(hidden: torch.Tensor, *, scoring: Scoring | None = None) -> Any:
        return plain(hidden) if scoring is None else _score_chunks(model, plain, hidden, scoring)

    head.plain_forward, head.forward = plain, forward
    return head(hidden_KH, scoring=scoring)


def _score_chunks(model: Any, plain: Logits, hidden_KH: torch.Tensor, scoring: Scoring) -> Scores:
    size = max(1, CHUNK // int(model.get_output_embeddings().weight.shape[0]))
    count = len(hidden_KH)
    chunks = []
    for begin in range(0, count, size):
        arguments = model, plain, hidden_KH[begin : begin + size], scoring.label_K[begin : begin + size], scoring
        if count > size and torch.is_grad_enabled():
            chunks.append(checkpoint(_score_chunk, *arguments, use_reentrant=False))
        else:
            chunks.append(_score_chunk(*arguments))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _score_chunk(model: Any, plain: Logits, hidden: torch.Tensor, label: torch.Tensor, scoring: Scoring) -> Scores:
    logits = head_logits(model, plain, hidden, label).float()
    if scoring.temperature != 1.0:
        logits = logits / max(scoring.temperature, 1e-8)
    log_p = logits.log_softmax(-1)
    found = {"log_probs": log_p.gather(-1, label[:, None]).squeeze(-1)}
    if scoring.entropy:
        found["entropy"] = -(log_p.exp() * log_p).sum(-1)
    if scoring.sum_pi_squared:
        found["sum_pi_squared"] = (2 * log_p).exp().sum(-1)
    return found


class _Decoded(dict[Any, Any]):
    """A decoder's output that has hidden states only, for the model's head."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__({0: hidden, "last_hidden_state": hidden})
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None


class _PlainHead(torch.nn.Module):
    """The head without FSDP's hooks, inside a call of the head that has them."""

    def __init__(self, plain: Logits) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.plain(hidden)


def head_logits(model: Any, plain: Logits, hidden: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Run the part of the model's forward pass that follows its decoder.

    Args:
        model: model of transformers; its ``base_model`` is its decoder, or holds it.
        plain: computation of its head.
        hidden: (tokens, hidden size).
        label: (tokens) any token ids, which only have to be there.

    Returns:
        (tokens, vocabulary).
    """
    base = model.base_model if model.base_model is not model else model.model
    head, output = model.get_output_embeddings(), _Decoded(hidden[None])
    base.forward = lambda *args, **kwargs: output
    model.set_output_embeddings(_PlainHead(plain))
    try:
        return type(model).forward(model, input_ids=label[None], use_cache=False).logits[0]
    finally:
        model.set_output_embeddings(head)
        del base.forward
