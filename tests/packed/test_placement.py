"""Which rows go where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from verl_atpo.packed.placement import place_rows
from verl_atpo.packed.trainer import mini_batches, place, token_metrics


def bins_of(order, bins):
    size = len(order) // bins
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 99)), min_size=1, max_size=9), st.integers(1, 4))
def test_every_row_once_and_groups_in_few_pieces(groups, bins):
    rows = iter(range(100))
    members = {str(number): [next(rows) for _ in range(size)] for number, (size, _) in enumerate(groups)}
    count = sum(map(len, members.values()))
    assume(count % bins == 0)
    order = place_rows(members, {str(number): tokens for number, (_, tokens) in enumerate(groups)}, bins)
    assert sorted(order) == list(range(count))
    pieces = [sum(bool(set(piece) & set(rows)) for piece in bins_of(order, bins)) for rows in members.values()]
    assert sum(pieces) - len(pieces) < bins  # as cutting a line of groups in equal pieces does


def test_equal_groups_stay_whole_and_share_the_work():
    # Six prompts of two rows on three ranks: 9 + 1, 7 + 3 and 6 + 4 distinct tokens.
    tokens = {"a": 9, "b": 7, "c": 6, "d": 4, "e": 3, "f": 1}
    members = {name: [2 * number, 2 * number + 1] for number, name in enumerate(tokens)}
    order = place_rows(members, tokens, bins=3)
    assert [sorted(piece) for piece in bins_of(order, 3)] == [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]


def test_rows_that_make_no_equal_pieces_are_refused():
    with pytest.raises(ValueError, match="3 rows do not make 2 pieces"):
        place_rows({"a": [0, 1, 2]}, {"a": 3}, bins=2)


def test_a_prompts_rows_are_found_by_verls_keys_and_sorted():
    # Rows of prompt a: [1 2 3] [1 2 4] [1 2 3 5]; of b: [9]. Equal beginnings come together.
    rows = [[1, 2, 3], [9], [1, 2, 4], [1, 2, 3, 5]]
    offsets = np.cumsum([0, *map(len, rows)])
    tokens = np.concatenate(rows)
    assert place(["a_x_0_0", "b_0_0", "a_x_1_0", "a_x_2_0"], tokens, offsets, bins=1) == [0, 3, 2, 1]
    # 11 tokens in rows; distinct 1 2 3 5 4 and 9.
    assert token_metrics(tokens, offsets, bins=1) == {
        "packed/row_tokens": 11.0,
        "packed/distinct_tokens": 6.0,
        "packed/row_tokens_over_distinct": 11 / 6,
    }
    # In two mini-batches: [1 2 3] and [9], then [1 2 4] and [1 2 3 5].
    assert token_metrics(tokens, offsets, bins=2)["packed/distinct_tokens"] == 4 + 5


@pytest.mark.parametrize(("rows", "expected"), [(16, 2), (8, 1), (12, 1)])
def test_mini_batches(rows, expected):
    config = OmegaConf.create({"actor_rollout_ref": {"actor": {"ppo_mini_batch_size": 2}, "rollout": {"n": 4}}})
    assert mini_batches(config, rows) == expected
