"""The trie and the packs against slow definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.random_rows import row_lists
from tests.assets.tries import ancestors, flat
from verl_atpo.packed.packs import pack_tokens, plan_packs
from verl_atpo.packed.trie import build_trie, levels, segments, sort_rows


def prefixes(rows):
    return {tuple(row[: length + 1]) for row in rows for length in range(len(row))}


def test_two_rows_by_hand():
    # [5 6 7] and [5 6 8 9] share two tokens: five distinct ones, the second row's own are at the end.
    trie = build_trie(*flat([[5, 6, 8, 9], [5, 6, 7]]))
    assert trie.token_N.tolist() == [5, 6, 7, 8, 9]
    assert trie.depth_N.tolist() == [0, 1, 2, 2, 3]
    assert trie.parent_N.tolist() == [-1, 0, 1, 1, 3]
    assert trie.end_N.tolist() == [5, 5, 3, 5, 5]
    assert trie.slot_T.tolist() == [0, 1, 3, 4, 0, 1, 2]
    assert segments(trie).tolist() == [[0, 2, 5], [2, 3, 3], [3, 5, 5]]


@settings(deadline=None)
@given(row_lists)
def test_a_token_for_every_distinct_prefix(rows):
    trie = build_trie(*flat(rows))
    assert len(trie) == len(prefixes(rows)) == sort_rows(*flat(rows)).distinct
    walked = []
    for slot in trie.slot_T:
        path = []
        while slot >= 0:
            path.append(int(trie.token_N[slot]))
            slot = trie.parent_N[slot]
        walked.append(path[::-1])
    assert walked == [row[: length + 1] for row in rows for length in range(len(row))]
    assert trie.depth_N.tolist() == [0 if above < 0 else int(trie.depth_N[above]) + 1 for above in trie.parent_N]


@settings(deadline=None)
@given(row_lists)
def test_ends_and_segments_say_who_sees_whom(rows):
    trie = build_trie(*flat(rows))
    query, key = np.mgrid[: len(trie), : len(trie)]
    seen = ancestors(trie)
    assert np.array_equal(seen, (key <= query) & (query < trie.end_N[key]))
    by_segment = np.zeros_like(seen)
    for begin, stop, end in segments(trie).tolist():
        by_segment[begin:stop, begin:stop] |= np.tri(stop - begin, dtype=bool)
        by_segment[stop:end, begin:stop] = True
    assert np.array_equal(seen, by_segment)


def plans(count):
    """All ways to cut so many rows."""
    for cuts in itertools.product([False, True], repeat=count - 1):
        begins = [0, *(row for row, cut in enumerate(cuts, start=1) if cut)]
        yield list(zip(begins, [*begins[1:], count], strict=True))


@settings(deadline=None)
@given(row_lists.filter(lambda rows: len(rows) < 9), st.integers(12, 40), st.integers(1, 4))
def test_packs_repeat_the_least(rows, budget, at_least):
    at_least = min(at_least, len(rows))
    ordered = sort_rows(*flat(rows))

    def cost(plan):
        return sum(pack_tokens(ordered, pack) for pack in plan), len(plan)

    def fits(plan):
        sizes = [len(prefixes([rows[row] for row in ordered.order_R[begin:end]])) for begin, end in plan]
        assert sizes == [pack_tokens(ordered, pack) for pack in plan]
        return max(sizes) <= budget

    plan = plan_packs(ordered, budget)
    assert fits(plan) and cost(plan) == min(cost(other) for other in plans(len(rows)) if fits(other))
    more = plan_packs(ordered, budget, at_least)
    assert fits(more) and len(more) == max(len(plan), at_least)
    assert [row for begin, end in more for row in range(begin, end)] == list(range(len(rows)))


def test_cuts_by_hand():
    # Tokens that each row shares with the one before it: 0, 0, 1, 0. Two packs of six tokens would repeat one token.
    rows = sort_rows(*flat([[1, 1, 1], [2, 1, 1], [2, 2, 2], [3, 3, 3]]))
    assert plan_packs(rows, budget=6) == [(0, 1), (1, 3), (3, 4)]
    assert plan_packs(rows, budget=11) == [(0, 4)]
    assert plan_packs(rows, budget=11, at_least=3) == [(0, 1), (1, 3), (3, 4)]


def test_a_row_over_the_budget_is_refused():
    with pytest.raises(ValueError, match=r"raise actor_rollout_ref\.actor\.ppo_max_token_len_per_gpu"):
        plan_packs(sort_rows(*flat([[1, 2, 3]])), budget=2)
    with pytest.raises(ValueError, match="at least 2 rows"):
        plan_packs(sort_rows(*flat([[1, 2, 3]])), budget=3, at_least=2)


def test_levels_by_hand():
    # [1 2 3 4] [1 2 3 5] [1 6] [7]: stretches 1 | 2 3 | 4 | 5 | 6 | 7, of nesting 0 1 2 2 1 0.
    trie = build_trie(*flat([[1, 2, 3, 4], [1, 2, 3, 5], [1, 6], [7]]))
    assert trie.token_N.tolist() == [1, 2, 3, 4, 5, 6, 7]
    found = [tuple(each.tolist() for each in level) for level in levels(trie)]
    # Counted over the levels: 1 and 7 are stretches 0 and 1, [2 3] and 6 are 2 and 3, and go on from stretch 0.
    assert found == [([0, 6], [1, 7], [-1, -1]), ([1, 5], [3, 6], [0, 0]), ([3, 4], [4, 5], [2, 2])]


@settings(deadline=None)
@given(row_lists)
def test_levels_hold_every_token_once_after_its_parent(rows):
    trie = build_trie(*flat(rows))
    last, seen = [], []
    for begin, stop, origin in levels(trie):
        known = list(last)
        for first, end, above in zip(begin.tolist(), stop.tolist(), origin.tolist(), strict=True):
            assert trie.parent_N[first] == (known[above] if above >= 0 else -1)
            last.append(end - 1)
            seen += range(first, end)
    assert sorted(seen) == list(range(len(trie)))
