"""Credit into token-level rewards and back: by hand, over random rows, and what no reward may be taken for."""

from __future__ import annotations

import itertools
import math
import random
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_atpo.method.channel import LARGEST, MARK, PART, TurnCredit, is_marked, read_rows, write_row

seeds = st.integers(0, 10**6)
M = MARK


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def read(rewards, mask=None):
    rewards = torch.as_tensor(rewards)
    return read_rows(rewards, torch.ones_like(rewards, dtype=torch.int) if mask is None else torch.as_tensor(mask))


def credits(*advantages: float) -> list[TurnCredit]:
    return [TurnCredit(advantage) for advantage in advantages]


@pytest.mark.parametrize("mark", [MARK, PART])
def test_a_mark_is_a_normal_float32_that_adds_nothing(mark):
    assert float32(mark) == mark > 2.0**-126
    assert float32(1e-25 + mark) == float32(1e-25)
    assert torch.tensor(mark, dtype=torch.float32).item() == mark


# Advantages 0.5, 0.75, -1 of turns at 0-1, 3-4 and 6-8 in a response of ten tokens with the outcome 2:
#   token 0 the 0.5, token 3 0.75 - 0.5, token 6 -1 - 0.75, the last token 2 - -1; tokens 1 and 2 are free.
def test_a_row_by_hand():
    spans = [(0, 2), (3, 5), (6, 9)]
    assert write_row(credits(0.5, 0.75, -1.0), spans, 2.0, 10) == [0.5, M, -M, 0.25, 0, 0, -1.75, 0, 0, 3.0]
    assert write_row(credits(1.0), [(0, 4)], 1.0, 4) == [1.0, M, -M, 0.0]


def test_a_second_number_stands_after_its_turn():
    # Turn 1 is token 0 with 0.5 and then 0.25, turn 2 is token 2: 0.5, 0.25 - 0.5, 1 - 0.25, and the outcome 0.
    row = write_row([TurnCredit(0.5, 0.25), TurnCredit(1.0)], [(0, 1), (2, 3)], 0.0, 3)
    assert row == [0.5, -0.25, 0.75, M, -M, -1.0]
    found = read([row], [[1, 0, 1, 0, 0, 0]])
    assert found.after_RT.tolist() == [[0, 0.25, 0, 0, 0, 0]]
    assert found.advantage_RT[0, [0, 2]].tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("spans", "length", "row"),
    [
        # One token is the turn's and holds its advantage; the outcome and two marks need three more.
        ([(0, 1)], 1, [0.5, M, -M, 0.5]),
        ([(0, 1)], 2, [0.5, M, -M, 0.5]),
        ([(0, 3)], 3, [0.5, M, -M, 0.5]),
        # Two turns of one token, one observed between them.
        ([(0, 1), (2, 3)], 3, [0.5, M, -0.25, -M, 0.75]),
        ([(0, 1), (2, 3)], 4, [0.5, M, -0.25, -M, 0.75]),
    ],
)
def test_a_row_without_room_gets_longer(spans, length, row):
    assert write_row(credits(0.5, 0.25)[: len(spans)], spans, 1.0, length) == row


def test_turns_that_the_response_limit_cut_off():
    # Turns at 0, 3 and 6 in a response of 5 tokens: the third is not there.
    assert write_row(credits(0.5, 0.75, -1.0), [(0, 2), (3, 5), (6, 8)], 1.0, 5) == [0.5, M, -M, 0.25, 0.25]
    assert write_row(credits(0.5, 0.75), [(0, 2), (5, 8)], 1.0, 5) == [0.5, M, -M, 0.5, 0.0]


@pytest.mark.parametrize(
    ("advantages", "spans", "outcome", "length", "message"),
    [
        ([], [], 0.0, 3, "credit of 0 turns for 0 spans"),
        ([1.0], [(0, 1), (2, 3)], 0.0, 3, "credit of 1 turns for 2 spans"),
        ([1.0, 2.0], [(0, 1), (1, 2)], 0.0, 3, "at least one between two"),
        ([1.0], [(2, 2)], 0.0, 3, "at least one token"),
        ([1.0, math.nan], [(0, 1), (2, 3)], 0.0, 3, "expected finite"),
        ([1.0], [(0, 1)], math.inf, 3, "expected finite"),
        ([1.0], [(0, 1)], 0.0, 0, "length=0"),
        ([1e39], [(0, 1)], 0.0, 3, "1e\\+39: expected at most 3.40282e\\+38, a float32"),
        ([3e38], [(0, 1)], -3e38, 3, "-6e\\+38: expected at most"),
    ],
)
def test_what_cannot_be_written_is_refused(advantages, spans, outcome, length, message):
    with pytest.raises(ValueError, match=message):
        write_row(credits(*advantages), spans, outcome, length)


def random_row(seed: int):
    """Turns and observations of one to three tokens, the last ones cut off at times."""
    rng = random.Random(seed)
    spans, at = [], 0
    for _ in range(rng.randint(1, 6)):
        spans.append((at, at + rng.randint(1, 3)))
        at = spans[-1][1] + rng.randint(1, 3)
    length = max(1, spans[-1][1] + rng.randint(-4, 3))
    turns = [TurnCredit(rng.uniform(-3, 3), rng.choice([None, rng.uniform(-1, 1)])) for _ in spans]
    turns[-1] = TurnCredit(turns[-1].advantage)
    outcome = rng.choice([0.0, 1.0, 1 / 3, -0.7])
    mask = [int(any(start <= token < end for start, end in spans)) for token in range(length)]
    return turns, spans, outcome, length, mask


@settings(deadline=None)
@given(seeds, st.booleans())
def test_what_was_written_is_read(seed, counts):
    turns, spans, outcome, length, mask = random_row(seed)
    row = write_row(turns, spans, outcome, length, counts)
    assert length <= len(row) <= length + 4 and is_marked(row)
    assert row == [float32(reward) for reward in row]
    assert sum(row) == pytest.approx(outcome, rel=1e-7, abs=3e-7)
    mask += [0] * (len(row) - length)
    found = read([row, [0.0] * len(row)], [mask, mask])
    assert found.written_R.tolist() == [True, False] and found.counts_R.tolist() == [counts, True]
    assert found.outcome_R[0].item() == pytest.approx(outcome, rel=1e-6, abs=1e-6)
    there = [span for span in spans if span[0] < length]
    for number, (start, end) in enumerate(there):
        turn = turns[number]
        own = found.advantage_RT[0, start : min(end, length)]
        assert own.tolist() == pytest.approx([turn.advantage] * len(own), rel=1e-6, abs=1e-6)
        assert found.first_RT[0, start].item() == (number == 0)
        if turn.after is not None and number < len(there) - 1:
            assert found.after_RT[0, end].item() == pytest.approx(turn.after, rel=1e-6, abs=1e-6)
    ends = {end for _, end in there[:-1]}
    assert all(found.after_RT[0, token] == 0 for token in range(len(row)) if token not in ends)


@given(st.lists(st.integers(-64, 64), min_size=2, max_size=30))
def test_the_round_trip_is_exact_on_dyadic_numbers(eighths):
    outcome, *advantages = (eighth / 8 for eighth in eighths)
    spans = [(3 * turn, 3 * turn + 1) for turn in range(len(advantages))]
    row = write_row(credits(*advantages), spans, outcome, spans[-1][1])
    mask = [int(token % 3 == 0 and token <= spans[-1][0]) for token in range(len(row))]
    found = read([row], [mask])
    assert found.advantage_RT[0, [start for start, _ in spans]].tolist() == advantages
    assert found.outcome_R.item() == outcome


def test_many_turns_do_not_add_up_rounding():
    advantages = [1 / (3 + turn % 7) for turn in range(1000)]
    row = write_row(credits(*advantages), [(2 * turn, 2 * turn + 1) for turn in range(1000)], 1 / 3, 2000)
    assert abs(sum(row) - 1 / 3) < 1e-8  # plain float32 differences: 7e-7
    found = read([row], [[1 - token % 2 for token in range(len(row))]])
    assert found.advantage_RT[0, :2000:2].tolist() == pytest.approx(advantages, rel=2e-7)


def test_masked_turns_do_not_move_the_others():
    row = write_row(credits(0.5, -0.25, 2.0), [(0, 3), (4, 6), (7, 9)], 1.0, 9)
    mask = [0, 0, 0, 0, 1, 1, 0, 1, 1] + [0] * (len(row) - 9)
    found = read([row], [mask])
    assert found.advantage_RT[0, [4, 5, 7, 8]].tolist() == [-0.25, -0.25, 2.0, 2.0]


@pytest.mark.parametrize(
    "rewards",
    [[1.0, 0, 0, 0, 0], [0.5, 0.25, 0, 0.25, 0], [0, 0, 0, 0, 1.0], [2.0**-126, 0, 0, 0, 1.0], [-M, 1.0, 0, 0, 0]],
)
def test_no_reward_of_the_users_is_taken_for_credit(rewards):
    found = read([rewards, [0.0] * 5])
    assert found.written_R.tolist() == [False, False]
    assert found.outcome_R.tolist() == [pytest.approx(sum(rewards)), 0.0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float32, torch.float64])
def test_every_type_is_read_right(dtype):
    assert read(torch.tensor([[0, 0, 1], [0, 0, 0]], dtype=dtype)).outcome_R.tolist() == [1.0, 0.0]


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


def test_marks_are_two_and_neither_is_a_reward():
    assert len({MARK, PART, 0.0}) == 3
    for mark, other in itertools.permutations((MARK, PART)):
        assert not is_marked([0.0, 1.0, -mark, other / 2])
