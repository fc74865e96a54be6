"""Scores in chunks against the whole matrix of logits."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GraniteConfig, LlamaConfig

from tests.assets.families import TINY, known
from verl_atpo.packed import head
from verl_atpo.packed.head import Scoring, score

CONFIGS = {
    "plain": LlamaConfig(**TINY),
    "tied": LlamaConfig(**TINY, tie_word_embeddings=True),
    "scaled": GraniteConfig(**known(GraniteConfig(), TINY), logits_scaling=4.0),
    "capped": Gemma3TextConfig(**TINY, final_logit_softcapping=3.0),
}


@pytest.mark.parametrize("chunk", [1, 97 * 5, 2**26], ids=["one token", "five tokens", "all"])
@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_equal_all_logits(name, chunk, monkeypatch):
    monkeypatch.setattr(head, "CHUNK", chunk)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    hidden = torch.randn(13, 32).mul(3).requires_grad_()
    label = torch.randint(97, (13,))
    found = score(model, hidden, Scoring(label, label, temperature=0.7, entropy=True, sum_pi_squared=True))
    logits = model.lm_head(hidden)
    if name == "scaled":
        logits = logits / 4.0
    if name == "capped":
        logits = 3.0 * torch.tanh(logits / 3.0)
    log_p = (logits / 0.7).log_softmax(-1)
    p = log_p.exp()
    wanted = {
        "log_probs": log_p[torch.arange(13), label],
        "entropy": -(p * log_p).sum(-1),
        "sum_pi_squared": p.square().sum(-1),
    }
    torch.testing.assert_close(found, wanted)
    weights = {key: torch.randn(13) for key in wanted}
    own, right = (
        torch.autograd.grad(sum((each[key] * weights[key]).sum() for key in wanted), (hidden, model.lm_head.weight))
        for each in (found, wanted)
    )
    torch.testing.assert_close(own, right, rtol=1e-4, atol=1e-5)


def test_only_what_is_wanted_is_made():
    model = AutoModelForCausalLM.from_config(CONFIGS["plain"])
    label = torch.tensor([3])
    assert set(score(model, torch.zeros(1, 32), Scoring(label, label))) == {"log_probs"}


def test_no_more_logits_than_a_chunk_are_in_memory(monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 97 * 4)
    model = AutoModelForCausalLM.from_config(CONFIGS["plain"])
    seen = []
    monkeypatch.setattr(
        model.lm_head, "forward", lambda hidden: seen.append(hidden.shape[-2]) or torch.zeros(1, hidden.shape[-2], 97)
    )
    label = torch.zeros(10, dtype=torch.int64)
    with torch.no_grad():
        score(model, torch.zeros(10, 32), Scoring(label, label))
    assert seen == [4, 4, 2]


def test_the_head_is_called_once_whatever_the_number_of_chunks(monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 97 * 4)
    model = AutoModelForCausalLM.from_config(CONFIGS["plain"])
    calls = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))  # where FSDP gathers the weights, on all ranks
    label = torch.zeros(10, dtype=torch.int64)
    found = score(model, torch.zeros(10, 32), Scoring(label, label))
    found["log_probs"].sum().backward()
    assert len(calls) == 1


def test_the_models_own_decoder_is_back_after_scoring():
    model = AutoModelForCausalLM.from_config(CONFIGS["plain"])
    label = torch.tensor([3])
    before = model(input_ids=label[None]).logits
    score(model, torch.zeros(1, 32), Scoring(label, label))
    torch.testing.assert_close(model(input_ids=label[None]).logits, before)
