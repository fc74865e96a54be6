"""From verl's rows to a pack and back, against walking every row by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.packed_rows import batch_of, random_trees
from tests.assets.random_rows import rows_by_hand
from verl_atpo.packed.packs import plan_packs
from verl_atpo.packed.rows import pack_inputs, row_tokens
from verl_atpo.packed.trie import sort_rows

CPU = torch.device("cpu")


def expected(rows):
    """For every place of the rows, the context and the token whose log-prob stands there, None where none is."""
    wanted = []
    for prompt, response, mask in zip(rows.prompts, rows.responses, rows.masks, strict=True):
        whole, counted = prompt + response, [0] * len(prompt) + mask
        wanted += [(*whole[: at + 1],) if at < len(whole) and counted[at] else None for at in range(1, len(whole) + 1)]
    return wanted


def found(pack):
    """The same by the pack: the path to the token whose logits are read, and what they predict."""
    tokens, positions = pack.input_ids[0].tolist(), pack.position_ids[0].tolist()
    paths: list[tuple[int, ...]] = []
    for token, position in zip(tokens, positions, strict=True):  # depth-first: the path so far, up to here
        paths.append((*(paths[-1][:position] if paths else ()), token))
    counted = [
        (*paths[parent], label) for parent, label in zip(pack.parent_K.tolist(), pack.label_K.tolist(), strict=True)
    ]
    return [counted[place] if place < len(counted) else None for place in pack.place_T.tolist()]


@pytest.mark.parametrize("seed", range(20))
def test_every_counted_token_of_random_trees_is_read_after_its_own_context(seed):
    rows = random_trees(seed, padding=seed % 3)
    pack = pack_inputs(batch_of(rows, list(range(len(rows.uids))), 0), CPU)
    assert found(pack) == expected(rows)


def test_rows_by_hand():
    rows = rows_by_hand()
    pack = pack_inputs(batch_of(rows, list(range(8)), 0), CPU)
    assert found(pack) == expected(rows)
    # One pack of both prompts. Prompts: 4 tokens and 8 after them. The whole row has 10, the diverged one leaves it
    # after 4 and has 6 of its own; the cut ones and the single token have none. The second prompt's rows: 2 and 2.
    assert pack.distinct == 4 + 10 + 6 + 1 + 2 + 2
    # Counted: 3 + 4 of the whole row, 4 of the diverged one, 4 of the second prompt's rows.
    assert len(pack.label_K) == 7 + 4 + 4


def test_values_of_shared_tokens_go_to_all_rows_and_their_gradients_add_up():
    rows = rows_by_hand()
    pack = pack_inputs(batch_of(rows, list(range(8)), 0), CPU)
    value = torch.arange(1.0, len(pack.label_K) + 1).requires_grad_()
    in_rows = pack.to_rows(value)
    assert in_rows.offsets().tolist() == [0, 14, 28, 42, 54, 59, 68, 75, 82]
    in_rows.values().sum().backward()
    # The first token of the whole row is that of six rows, its next two of five.
    assert sorted(value.grad.tolist()) == sorted([6, 5, 5, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1])


def test_a_row_alone_and_a_row_of_padding_alone():
    rows = rows_by_hand()
    single = pack_inputs(batch_of(rows, [4], 0), CPU)  # a prompt of four tokens, and the one that was sampled
    assert (single.input_ids.tolist(), single.parent_K.tolist(), single.label_K.tolist()) == (
        [[4, 5, 6, 7, 10]],
        [3],
        [10],
    )
    assert single.place_T.tolist() == [1, 1, 1, 0, 1]
    padding = random_trees(0, groups=0, padding=1)
    alone = pack_inputs(batch_of(padding, [0], 0), CPU)
    assert alone.to_rows(torch.ones(1)).values().tolist() == [0.0] * 6


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 8))
def test_packs_hold_every_row_once(seed, groups, rows_each):
    rows = random_trees(seed, groups, rows_each)
    data = batch_of(rows, list(range(len(rows.uids))), 0)
    ordered = sort_rows(*row_tokens(data))
    longest = int(ordered.length_R.max())
    held = []
    for begin, end in plan_packs(ordered, 2 * longest):
        index = ordered.order_R[begin:end].tolist()
        pack = pack_inputs(batch_of(rows, index, 0), CPU)
        assert pack.distinct <= 2 * longest
        parts = torch.tensor(pack.place_T.tolist()).split(pack.offsets.diff().tolist())
        held += list(zip(index, map(len, parts), strict=True))
    assert sorted(held) == [(row, len(whole)) for row, whole in enumerate(rows.whole())]
