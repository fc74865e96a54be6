"""What a device would have to wait for, on tensors without values, and how often kernels are compiled."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import flex_attention
from transformers import LlamaConfig, LlamaForCausalLM

from tests.assets.kernel_inputs import inputs, tree_of
from tests.assets.packed_rows import batch_of, random_trees
from verl_atpo.packed import head
from verl_atpo.packed.attention import DIVISIBLE
from verl_atpo.packed.delta import ancestor_convolution, delta_rule
from verl_atpo.packed.head import Scoring, score
from verl_atpo.packed.rows import pack_inputs
from verl_atpo.packed.visibility import Visibility

META = torch.device("meta")
"""Tensors there have no values: whatever copies one to the host raises."""

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.fixture
def pack():
    rows = random_trees(0)
    return pack_inputs(batch_of(rows, list(range(len(rows.uids))), 0), META)


def test_a_tensor_without_values_cannot_be_read(pack):
    with pytest.raises((RuntimeError, NotImplementedError)):
        pack.parent_K.tolist()


def test_a_pack_is_made_on_the_cpu_and_only_moved(pack):
    visibility = pack.visibility
    mask = visibility.block_mask(None)
    windowed = visibility.block_mask(5)
    tensors = [pack.input_ids, pack.position_ids, pack.parent_K, pack.label_K, pack.place_T, visibility.ancestors(4)]
    tensors += [
        mask.kv_num_blocks,
        mask.kv_indices,
        mask.full_kv_indices,
        windowed.q_indices,
        visibility.levels[0].token,
    ]
    assert {each.device for each in tensors} == {META}
    assert pack.input_ids.shape[1] % 128 == 0


def test_scores_and_rows_wait_for_nothing(pack, monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 97 * 5)
    with META:
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=97, hidden_size=16, intermediate_size=16, num_hidden_layers=1, **HEADS)
        )
    hidden = torch.zeros(len(pack.label_K), 16, device=META, requires_grad=True)
    scores = score(model, hidden, Scoring(pack.parent_K, pack.label_K, 0.7, entropy=True))
    in_rows = torch.cat([scores[name] for name in ("log_probs", "entropy")])
    assert in_rows.shape == (2 * len(pack.label_K),)
    gathered = torch.cat([scores["log_probs"], scores["log_probs"].new_zeros(1)]).index_select(0, pack.place_T)
    gathered.sum().backward()
    assert hidden.grad.device == META


def test_layers_with_a_state_wait_for_nothing(pack):
    tokens = pack.visibility.tokens

    def rule(query, key, value, *, g, beta, initial_state, output_final_state, cu_seqlens):
        assert cu_seqlens.device == META and (initial_state is None or initial_state.device == META)
        return value, value.new_zeros(len(cu_seqlens) - 1, 2, 3, 3)

    made = [torch.zeros(1, tokens, 2, 3, device=META) for _ in range(3)]
    made += [torch.zeros(1, tokens, 2, device=META) for _ in range(2)]
    assert delta_rule(rule, True, tuple(made), pack.visibility, {}).shape == (1, tokens, 2, 3)
    x, weight = torch.zeros(1, 5, tokens, device=META), torch.zeros(5, 4, device=META)
    assert ancestor_convolution(x, weight, None, "silu", pack.visibility).shape == (1, 5, tokens)


def test_packs_of_many_sizes_are_compiled_twice():
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(flex_attention, backend=counter)
    sizes = set()
    for number in range(8):
        trie, _ = tree_of(300 + 150 * number, seed=number)
        blocks = Visibility(trie, torch.device("cpu"), blocks=True)
        sizes.add(blocks.tokens)
        tensors = inputs(blocks.tokens, (4, 2, 16), torch.device("cpu"), torch.float32)
        compiled(*tensors, block_mask=blocks.block_mask(None), scale=0.25, enable_gqa=True, kernel_options=DIVISIBLE)
    assert len(sizes) > 5
    assert counter.frame_count <= 2  # the first size, then all others


def test_unsafe_promises_are_not_made():
    assert DIVISIBLE == {"IS_DIVISIBLE": True}  # of ROWS_GUARANTEED_SAFE come NaNs
