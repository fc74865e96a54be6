"""Which rows go where, and what a step costs."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from tests.assets.random_rows import row_lists
from tests.assets.simulated_ranks import SHAPES, Batch, verls_cost
from tests.assets.tries import flat
from verl_atpo.packed import placement, trainer
from verl_atpo.packed.cost import LINEAR, SharedPrefixes, bin_cost, row_cost, step_cost
from verl_atpo.packed.placement import place_rows
from verl_atpo.packed.trainer import arrange, mini_batches, pack_budget
from verl_atpo.packed.trie import build_trie, sort_rows


def slow_cost(rows):
    """Every distinct prefix once: the linear part, and 2 d + 1 for a token of depth d, which add up to the square."""
    prefixes = {tuple(row[: length + 1]) for row in rows for length in range(len(row))}
    return sum(LINEAR + 2 * (len(prefix) - 1) + 1 for prefix in prefixes)


@settings(deadline=None)
@given(row_lists)
def test_a_bin_costs_its_distinct_tokens_once(rows):
    ordered = sort_rows(*flat(rows))
    places = np.arange(len(rows))
    assert bin_cost(places, ordered, SharedPrefixes(ordered)) == slow_cost(rows)
    some = places[::2]
    assert bin_cost(some, ordered, SharedPrefixes(ordered)) == slow_cost([rows[row] for row in ordered.order_R[some]])


def test_cost_of_a_row_is_verls():
    # 24576 x 10 + 100; of its last four tokens: 24576 x 4 + 100 - 36.
    assert row_cost(np.array([10])).tolist() == [245860.0]
    assert row_cost(np.array([10]), np.array([6])).tolist() == [98368.0]


@settings(deadline=None)
@given(row_lists)
def test_shared_prefixes_of_any_two_rows(rows):
    ordered = sort_rows(*flat(rows))
    prefixes = SharedPrefixes(ordered)
    sorted_rows = [rows[row] for row in ordered.order_R]
    for first, second in itertools.combinations(range(len(rows)), 2):
        same = [a == b for a, b in zip(sorted_rows[first], sorted_rows[second], strict=False)]
        wanted = same.index(False) if False in same else len(same)
        assert prefixes(np.array([first]), np.array([second])).tolist() == [wanted]


@settings(deadline=None)
@given(st.lists(row_lists, min_size=1, max_size=5), st.integers(1, 4))
def test_every_row_once_in_pieces_of_equal_numbers(groups, bins):
    rows = [[100 + number, *row] for number, group in enumerate(groups) for row in group]
    rows += [[99]] * (-len(rows) % bins)
    ordered = sort_rows(*flat(rows))
    members: dict[int, list[int]] = {}
    for place, row in enumerate(ordered.order_R.tolist()):
        members.setdefault(rows[row][0], []).append(place)
    placed = place_rows(ordered, [np.array(group) for group in members.values()], bins)
    assert {len(places) for places in placed} == {len(rows) // bins}
    assert sorted(np.concatenate(placed).tolist()) == list(range(len(rows)))


def test_equal_groups_stay_whole_and_share_the_work():
    # Six prompts of two equal rows on three ranks, of 90, 70, 60, 40, 30 and 10 tokens: 90 + 10, 70 + 30, 60 + 40.
    rows = [[prompt] * length for prompt, length in enumerate((90, 70, 60, 40, 30, 10)) for _ in range(2)]
    ordered = sort_rows(*flat(rows))
    groups = [np.array([2 * number, 2 * number + 1]) for number in range(6)]
    assert [places.tolist() for places in place_rows(ordered, groups, 3)] == [
        [0, 1, 10, 11],
        [2, 3, 8, 9],
        [4, 5, 6, 7],
    ]


def test_a_heavy_tree_gives_rows_to_a_light_one():
    # One tree a rank, 4 rows of 900 tokens against 4 of 100, which share nothing: 2 heavy and 2 light rows each.
    rows = [[tree, row] + [row] * length for tree, length in ((0, 898), (1, 98)) for row in range(4)]
    ordered = sort_rows(*flat(rows))
    groups = [np.arange(4), np.arange(4, 8)]
    placed = place_rows(ordered, groups, 2)
    assert [sorted(ordered.length_R[places].tolist()) for places in placed] == [[100, 100, 900, 900]] * 2


def test_rows_that_make_no_equal_pieces_are_refused():
    ordered = sort_rows(*flat([[1], [2], [3]]))
    with pytest.raises(ValueError, match="3 rows do not make 2 pieces"):
        place_rows(ordered, [np.arange(3)], 2)


def test_a_step_is_as_long_as_the_slowest_rank_of_each_mini_batch():
    # Two ranks, two mini-batches: rank 0 has rows of 1 and 8 tokens, rank 1 of 4 and 2. Slowest 4 + 8, mean 7.5.
    rows = [[0], [1] * 8, [2] * 4, [3] * 2]
    ordered = sort_rows(*flat(rows))
    bins = [np.array([place]) for place in range(4)]
    slowest, mean = step_cost(bins, ordered, SharedPrefixes(ordered), 2, None)
    assert slowest == LINEAR * 12 + 16 + 64
    assert mean == (LINEAR * 15 + 1 + 64 + 16 + 4) / 2
    # Two rows that share 3 of 4 tokens, in packs of 4 tokens: nothing is shared.
    ordered = sort_rows(*flat([[1, 1, 1, 2], [1, 1, 1, 3]]))
    for budget, tokens in ((5, 5), (4, 8)):
        cost, _ = step_cost([np.arange(2)], ordered, SharedPrefixes(ordered), 1, budget)
        assert cost == LINEAR * tokens + (16 + 16 - 9 if budget == 5 else 32)


def test_a_prompts_rows_are_found_by_verls_keys():
    # Rows of prompt a: [1 2 3] [1 2 4] [1 2 3 5]; of b: [9]. One rank: the order stays.
    rows = [[1, 2, 3], [9], [1, 2, 4], [1, 2, 3, 5]]
    keys = ["a_x_0_0", "b_0_0", "a_x_1_0", "a_x_2_0"]
    order, metrics = arrange(keys, *flat(rows), ranks=1, updates=1, budget=None)
    assert order == [0, 1, 2, 3]
    # 11 tokens in rows; distinct 1 2 3 5 4 and 9.
    assert (metrics["packed/row_tokens"], metrics["packed/distinct_tokens"]) == (11, 6)
    assert metrics["packed/row_tokens_over_distinct"] == 11 / 6
    # In two mini-batches: [1 2 3] and [9], then [1 2 4] and [1 2 3 5].
    assert arrange(keys, *flat(rows), ranks=1, updates=2, budget=None)[1]["packed/distinct_tokens"] == 4 + 5
    order, metrics = arrange(keys, *flat(rows), ranks=2, updates=1, budget=None)
    assert [sorted(order[:2]), sorted(order[2:])] in ([[0, 3], [1, 2]], [[1, 2], [0, 3]])
    assert metrics["packed/slowest_rank_over_mean"] >= 1


@pytest.mark.parametrize("name", ["`tree`: 6 + 6", "paper's trees: 10 + 2x6", "6 + 6, 12 to 20 turns"])
@pytest.mark.parametrize("ranks", [8, 16])
def test_packs_are_cheaper_than_verls_rows_on_as_many_ranks_as_trees(name, ranks):
    batch = Batch(SHAPES[name], prompts=16, seed=3)
    own, order = verls_cost(batch, ranks, 1)
    total = row_cost(np.diff(batch.offsets)).sum() / ranks
    longest = int(np.diff(batch.offsets).max())
    found = batch.reordered(order).packed(ranks, 1, max(16384, 2 * longest))
    cheaper = own / total * found["packed/rows_flops_over_slowest_rank"]
    assert cheaper > (1.25 if "turns" in name else 1.5)
    assert found["packed/slowest_rank_over_mean"] < 1.08


@pytest.mark.parametrize("budget", [1, 3000, None])
def test_packs_never_cost_more_than_verls_rows(budget, monkeypatch):
    batch = Batch(SHAPES["22 chains"], prompts=8, seed=5)
    monkeypatch.setattr(placement, "EXCHANGES", 0)  # whole prompts on 8 ranks: unbalanced
    own, order = verls_cost(batch, 8, 1)
    found = batch.reordered(order).packed(8, 1, budget)
    total = row_cost(np.diff(batch.offsets)).sum() / 8
    assert own / total * found["packed/rows_flops_over_slowest_rank"] >= 1 - 1e-9


def test_distinct_tokens_of_a_placement_are_those_of_its_tries():
    batch = Batch(SHAPES["4 + 3x6"], prompts=4, seed=1)
    order, metrics = arrange(batch.keys, np.concatenate(batch.rows), batch.offsets, 4, 1, None)
    size = len(order) // 4
    tries = [
        build_trie(*flat([batch.rows[row].tolist() for row in order[at : at + size]]))
        for at in range(0, 4 * size, size)
    ]
    assert sum(map(len, tries)) == metrics["packed/distinct_tokens"]


@pytest.mark.parametrize(("rows", "expected"), [(16, 2), (8, 1), (12, 1)])
def test_mini_batches(rows, expected):
    config = OmegaConf.create({"actor_rollout_ref": {"actor": {"ppo_mini_batch_size": 2}, "rollout": {"n": 4}}})
    assert mini_batches(config, rows) == expected


def test_the_budget_is_the_recipes():
    actor = {"use_dynamic_bsz": True, "ppo_max_token_len_per_gpu": 5000}
    config = OmegaConf.create({"actor_rollout_ref": {"actor": actor}})
    assert pack_budget(config) == 5000
    config.actor_rollout_ref.actor.use_dynamic_bsz = False
    assert pack_budget(config) is None


class Rows(list):
    """What verl's trainer holds of a batch: keys, and an order."""

    keys = property(list)

    def reorder(self, order):
        self[:] = [self[place] for place in order]


@pytest.mark.parametrize("ranks", [1, 2])
def test_verls_trainer_deals_rows_by_it_and_logs_what_is_saved(monkeypatch, ranks):
    rows = {"a_0_0": [1, 2, 3, 4], "b_0_0": [9, 8, 7], "a_1_0": [1, 2, 3, 5], "b_1_0": [9, 8, 6]}
    monkeypatch.setattr(PPOTrainer, "_balance_batch", lambda self, batch, metrics: batch)
    monkeypatch.setattr(trainer, "_tokens", lambda batch: flat([rows[key] for key in batch]))
    trainer.keep_trees_together()
    wrapped = PPOTrainer._balance_batch
    trainer.keep_trees_together()
    assert PPOTrainer._balance_batch is wrapped  # once
    actor = {"ppo_mini_batch_size": 4, "use_dynamic_bsz": True, "ppo_max_token_len_per_gpu": 100}
    config = OmegaConf.create({"actor_rollout_ref": {"actor": actor, "rollout": {"n": 1}}})
    dispatch = {"actor": list(range(ranks))}
    itself = SimpleNamespace(config=config, actor_rollout_wg=SimpleNamespace(_dispatch_info=dispatch))
    batch, metrics = Rows(rows), {}
    assert wrapped(itself, batch, metrics) is batch
    assert metrics["packed/row_tokens"] == 14 and metrics["packed/distinct_tokens"] == 5 + 4
    if ranks == 1:
        assert batch == list(rows)
    else:
        assert [{key[0] for key in batch[:2]}, {key[0] for key in batch[2:]}] in ([{"a"}, {"b"}], [{"b"}, {"a"}])
        assert metrics["global_seqlen/balanced_max"] == 8
