"""Values into token-level rewards and back: by hand, over random trees, and what no reward may be taken for."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.trees import random_tree, rows_of
from verl_atpo.config import Backup
from verl_atpo.method.channel import LARGEST, MARK, is_marked, read_values, write_values
from verl_atpo.method.credit import node_values
from verl_atpo.tree.tree import ROOT

seeds = st.integers(0, 10**6)
backups = st.sampled_from(list(Backup))
M = MARK


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def read(rewards, mask=None, groups=None):
    rewards = torch.as_tensor(rewards)
    mask = torch.ones_like(rewards, dtype=torch.int) if mask is None else torch.as_tensor(mask)
    return read_values(rewards, mask, torch.tensor(groups or [0] * len(rewards)))


def test_the_mark_is_a_normal_float32_that_adds_nothing():
    assert float32(MARK) == MARK > 2.0**-126
    assert float32(1e-25 + MARK) == float32(1e-25)
    assert torch.tensor(MARK, dtype=torch.float32).item() == MARK


# Values 0.25 (root), 0.5, 0.75, 1.0 along a response of turns at 0, 3 and 6:
#   token 0 the root's 0.25, token 1 0.5 - 0.25, token 3 0.75 - 0.5, token 6 1.0 - 0.75; tokens 2 and 4 are free.
def test_a_row_by_hand():
    assert write_values([0.5, 0.75, 1.0], [0, 3, 6], 0.25, 8) == [0.25, 0.25, M, 0.25, -M, 0, 0.25, 0]
    assert write_values([0.0, 1.0], [0, 2], 0.0, 4) == [0, 0, 1.0, M]
    assert write_values([1.0], [0], 0.0, 4) == [0, 1.0, M, -M]


def test_turns_that_the_response_limit_cut_off():
    # Turns at 0, 3 and 6 in a response of 5 tokens: what is left, 1.0 - 0.75, goes on token 4.
    assert write_values([0.5, 0.75, 1.0], [0, 3, 6], 0.25, 5) == [0.25, 0.25, M, 0.25, 0.25]
    assert write_values([0.5, 0.75, 1.0], [0, 5, 9], 0.25, 5) == [0.25, 0.25, M, -M, 0.5]
    assert write_values([0.5, 1.0], [0, 3], 0.25, 2) == [0.25, 0.75]
    assert write_values([0.5, 1.0], [0, 3], 0.25, 1) == [1.0]


@pytest.mark.parametrize(
    ("values", "starts", "root", "length", "message"),
    [
        ([], [], 0.0, 3, "0 values for 0 turns"),
        ([1.0], [0, 2], 0.0, 3, "1 values for 2 turns"),
        ([1.0], [1], 0.0, 3, "expected 0 first"),
        ([1.0, 2.0], [0, 1], 0.0, 3, "rising by at least 2"),
        ([1.0, math.nan], [0, 2], 0.0, 3, "expected finite"),
        ([1.0], [0], math.inf, 3, "expected finite"),
        ([1.0], [0], 0.0, 0, "length=0"),
        ([1e39], [0], 0.0, 3, "1e\\+39: expected at most 3.40282e\\+38, a float32"),
        ([-3e38], [0], 3e38, 3, "-6e\\+38: expected at most"),
    ],
)
def test_what_cannot_be_written_is_refused(values, starts, root, length, message):
    with pytest.raises(ValueError, match=message):
        write_values(values, starts, root, length)


@given(seeds, backups)
def test_a_row_is_float32_and_sums_to_its_outcome(seed, backup):
    tree = random_tree(seed)
    values = node_values(tree, backup)
    for row in rows_of(tree, backup, seed):
        assert sum(row.rewards) == pytest.approx(values[row.path[-1]], rel=1e-7, abs=1e-7)
        assert all(reward == float32(reward) for reward in row.rewards)
        assert is_marked(row.rewards) or len(row.rewards) < 5


@settings(deadline=None)
@given(seeds, backups)
def test_what_was_written_is_read(seed, backup):
    tree = random_tree(seed)
    values = node_values(tree, backup)
    rows = rows_of(tree, backup, seed)
    width = max(len(row.rewards) for row in rows)
    found = read(
        [row.rewards + [0.0] * (width - len(row.rewards)) for row in rows],
        [[int(turn is not None) for turn in row.turn_of] + [0] * (width - len(row.turn_of)) for row in rows],
    )
    assert found.trees
    for line, row in enumerate(rows):
        for token, turn in enumerate(row.turn_of):
            if turn is not None and len(row.rewards) > 2:
                parent = values[tree.nodes[turn].parent]
                assert found.value_RT[line, token].item() == pytest.approx(values[turn], rel=1e-6, abs=1e-6)
                assert found.parent_RT[line, token].item() == pytest.approx(parent, rel=1e-6, abs=1e-6)
        assert found.root_R[line].item() == pytest.approx(values[ROOT], rel=1e-6, abs=1e-6)
        assert found.outcome_R[line].item() == pytest.approx(values[row.path[-1]], rel=1e-6, abs=1e-6)


@given(st.lists(st.integers(-64, 64), min_size=3, max_size=30))
def test_the_round_trip_is_exact_on_dyadic_values(eighths):
    root, *values = (eighth / 8 for eighth in eighths)
    starts = [3 * turn for turn in range(len(values))]
    row = write_values(values, starts, root, starts[-1] + 2)
    found = read([row], [[int(token % 3 == 0) for token in range(len(row))]])
    assert found.value_RT[0, starts].tolist() == values
    assert found.parent_RT[0, starts].tolist() == [root, *values[:-1]]
    assert (found.root_R.item(), found.outcome_R.item()) == (root, values[-1])


def test_many_turns_do_not_add_up_rounding():
    values = [1 / (3 + turn % 7) for turn in range(1000)]
    row = write_values(values, [2 * turn for turn in range(1000)], 1 / 3, 2000)
    assert abs(sum(row) - values[-1]) < 1e-8  # plain float32 differences: 7e-7


@pytest.mark.parametrize(
    "rewards",
    [[1.0, 0, 0, 0, 0], [0.5, 0.25, 0, 0.25, 0], [0, 0, 0, 0, 1.0], [2.0**-126, 0, 0, 0, 1.0], [-M, 1.0, 0, 0, 0]],
)
def test_no_reward_of_the_users_is_taken_for_a_tree(rewards):
    found = read([rewards, [0.0] * 5])
    assert not found.trees
    assert found.value_RT.tolist() == [[sum(rewards)] * 5, [0.0] * 5] or rewards[0] == -M
    assert found.root_R.tolist() == pytest.approx([sum(rewards) / 2] * 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float32, torch.float64])
def test_every_type_is_read_right(dtype):
    found = read(torch.tensor([[0, 0, 1], [0, 0, 0]], dtype=dtype))
    assert found.value_RT.tolist() == [[1.0] * 3, [0.0] * 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_or_refused(dtype):
    with pytest.raises(ValueError, match=r"16: expected float32 or float64.*Remedy"):
        read(torch.zeros(1, 3, dtype=dtype))


@pytest.mark.fault("Learning", "token-level rewards that are no float32 numbers", "refused with the row")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
def test_rewards_that_are_no_float32_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=r"row 1 has the token-level reward .*finite float32 numbers.*Remedy"):
        read(torch.tensor([[0.0, 0.0], [0.0, bad]], dtype=torch.float64))
    read(torch.tensor([[0.0, LARGEST]], dtype=torch.float64))


def test_rows_of_one_tree_that_start_differently_are_refused():
    rows = [write_values([1.0], [0], root, 6) for root in (0.25, 0.5)]
    with pytest.raises(ValueError, match="start with different values"):
        read(rows)
    assert read(rows, groups=[0, 1]).root_R.tolist() == [0.25, 0.5]
