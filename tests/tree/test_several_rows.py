"""Trajectories of several rows: every turn is in one of them, and nothing else is."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verl.experimental.agent_loop import AgentLoopOutput
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.failure import RowMismatchError
from verl_atpo.tree.comparison import Place, check_tree_rows
from verl_atpo.tree.conversations import Conversations
from verl_atpo.tree.recording import Generation, contexts_of, group_turns
from verl_atpo.tree.stretches import stretches

PROMPT = [1, 2, 3]


def record(*steps: tuple[list[int], list[int]]) -> list[Generation]:
    """Generations of a loop that asks with these ids and gets these tokens; token t has the log-prob -t / 100."""
    generations, conversations = list[Generation](), Conversations()
    for asked, sampled in steps:
        output = TokenOutput(token_ids=sampled, log_probs=[-token / 100 for token in sampled])
        listed = generations[-1] if generations else None
        generations.append(conversations.record(asked, output, (), listed))
    return generations


def row(prompt: list[int], response: list[int], mask: list[int]) -> AgentLoopOutput:
    return AgentLoopOutput(prompt_ids=prompt, response_ids=response, response_mask=mask, metrics={})


MAIN, SUB = [*PROMPT, 11, 12, 50], [7, 8]
PARALLEL = record(
    (PROMPT, [11, 12]), (SUB, [21]), ([9], [31]), ([*SUB, 21, 60], [22, 23]), (MAIN, [13]), ([4, 5], [14])
)
"""A main conversation (turns 1 and 5), two sub-agents (2 and 4; 3), and the main one compacted (6)."""
ROWS = [
    row(PROMPT, [11, 12, 50, 13], [1, 1, 0, 1]),
    row(SUB, [21, 60, 22, 23], [1, 0, 1, 1]),
    row([9], [31], [1]),
    row([4, 5], [14], [1]),
]
PLACES = [Place(0, 0), Place(1, 0), Place(2, 0), Place(1, 2), Place(0, 3), Place(3, 0)]


def test_each_conversation_is_a_stretch():
    assert contexts_of(PARALLEL) == [PROMPT, SUB, [9], [*SUB, 21, 60], MAIN, [4, 5]]
    assert [(part.turns, part.starts) for part in stretches(PARALLEL)] == [
        ([0, 4], [3, 6]),
        ([1, 3], [2, 4]),
        ([2], [1]),
        ([5], [2]),
    ]
    held = sum(len(each.observed_ids) + len(each.output.token_ids) for each in PARALLEL)
    assert held == sum(len(each.prompt_ids) + len(each.response_ids) for each in ROWS)  # nothing twice


def test_each_turn_is_found_in_its_row():
    outputs = copy.deepcopy(ROWS)
    assert check_tree_rows(PARALLEL, outputs) == PLACES
    assert outputs[1].response_logprobs == [-0.21, 0.0, -0.22, -0.23]
    swapped = [outputs[1], outputs[0], outputs[3], outputs[2]]
    assert [place.row for place in check_tree_rows(PARALLEL, swapped)] == [1, 0, 3, 0, 1, 2]


def test_a_stretch_may_be_cut_into_rows_between_turns():
    cut = [*copy.deepcopy(ROWS[1:]), row(PROMPT, [11, 12, 50], [1, 1, 0]), row(MAIN, [13], [1])]
    assert check_tree_rows(PARALLEL, cut) == [
        Place(3, 0), Place(0, 0), Place(1, 0), Place(0, 2), Place(4, 0), Place(2, 0)
    ]  # fmt: skip


def test_a_turn_in_no_row_or_in_two_is_refused():
    for number in range(4):
        with pytest.raises(RowMismatchError, match=r"Turn \d is in none of the 3 outputs"):
            check_tree_rows(PARALLEL, [each for at, each in enumerate(copy.deepcopy(ROWS)) if at != number])
    with pytest.raises(RowMismatchError, match=r"Output 5 .* has turns that an earlier output has"):
        check_tree_rows(PARALLEL, copy.deepcopy([*ROWS, ROWS[2]]))
    with pytest.raises(RowMismatchError, match=r"Output 5 .* has turns that an earlier output has"):
        check_tree_rows(PARALLEL, copy.deepcopy([*ROWS, row(MAIN, [13], [1])]))


def test_a_full_response_cuts_turns_off():
    cut = row(PROMPT, [11, 12], [1, 1])
    assert check_tree_rows(PARALLEL, [cut, *copy.deepcopy(ROWS[1:])], response_length=2)[4] == Place(0, 3)
    with pytest.raises(RowMismatchError, match="Turn 5 is in none"):
        check_tree_rows(PARALLEL, [cut, *copy.deepcopy(ROWS[1:])], response_length=20)


TOKENS = st.lists(st.integers(10, 12), min_size=1, max_size=3)


@st.composite
def conversations(draw) -> list[tuple[list[int], list[int]]]:
    """Steps of up to four conversations that take turns at random; some begin again with another context."""
    open_, steps = [[0]], []
    for number in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(open_) - 1))
        sampled = draw(TOKENS)
        steps.append((list(open_[at]), sampled))
        open_[at] = [*open_[at], *sampled, *draw(TOKENS)]
        match draw(st.sampled_from(["go on", "go on", "compact", "sub-agent"])):
            case "compact":
                open_[at] = [20 + number]
            case "sub-agent":
                open_.append([40 + number])
    return steps


@given(conversations(), st.data())
def test_rows_by_stretch_are_sound_and_any_change_of_a_sampled_token_is_not(steps, data):
    generations = record(*steps)
    assert contexts_of(generations) == [asked for asked, _ in steps]
    parts = stretches(generations)
    outputs = [
        row(
            part.token_ids[: part.prompt_tokens],
            part.token_ids[part.prompt_tokens :],
            part.sampled[part.prompt_tokens :],
        )
        for part in parts
    ]
    turns = group_turns(generations)
    places = check_tree_rows(generations, copy.deepcopy(outputs))
    for turn, place in zip(turns, places, strict=True):
        own = outputs[place.row]
        end = place.start + len(turn.token_ids)
        assert own.response_ids[place.start : end] == turn.token_ids
        assert own.response_mask[place.start : end] == [1] * len(turn.token_ids)
    assert sum(sum(each.response_mask) for each in outputs) == sum(len(turn.token_ids) for turn in turns)
    changed = copy.deepcopy(outputs)
    place = data.draw(st.sampled_from(places))
    if data.draw(st.booleans()):
        changed[place.row].response_ids[place.start] = 99
    else:
        changed[place.row].response_mask[place.start] = 0
    with pytest.raises(RowMismatchError):
        check_tree_rows(generations, changed)
