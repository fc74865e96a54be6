"""The exact comparison of a row with what was sampled: sound rows pass, every change of what is trained is refused."""

from __future__ import annotations

import copy
from itertools import accumulate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from verl.experimental.agent_loop import AgentLoopOutput
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.failure import ContextRewrittenError, NothingSampledError, RowMismatchError
from verl_atpo.tree.comparison import check_chain_rows, check_tree_row
from verl_atpo.tree.recording import Generation
from verl_atpo.tree.stretches import stretches

PROMPT = [1, 2, 3]


def record(*steps: tuple[list[int], list[int]]) -> list[Generation]:
    """Generations of a loop that asks with these ids and gets these tokens; token t has the log-prob -t / 100."""
    generations, context = [], []
    for asked, sampled in steps:
        output = TokenOutput(token_ids=sampled, log_probs=[-token / 100 for token in sampled])
        generations.append(Generation.after(context, asked, output))
        context = asked + sampled
    return generations


def row(response: list[int], mask: list[int], log_probs: list[float] | None = None, prompt=PROMPT) -> AgentLoopOutput:
    return AgentLoopOutput(
        prompt_ids=list(prompt), response_ids=response, response_mask=mask, response_logprobs=log_probs, metrics={}
    )


TWO_TURNS = record((PROMPT, [11, 12]), ([*PROMPT, 11, 12, 50], [13, 14]))
"""Turn 1 samples 11 12, the environment answers 50, turn 2 samples 13 14."""


def test_a_sound_row_gives_the_starts_of_its_turns_and_gets_its_log_probs():
    output = row([11, 12, 50, 13, 14, 60], [1, 1, 0, 1, 1, 0])
    assert check_tree_row(TWO_TURNS, output) == [0, 3]
    assert output.response_logprobs == [-0.11, -0.12, 0.0, -0.13, -0.14, 0.0]


def test_log_probs_that_are_there_are_left_alone():
    given_ = [-0.11, -0.12, 9.0, -0.13, -0.14]  # what stands at observations is not trained
    output = row([11, 12, 50, 13, 14], [1, 1, 0, 1, 1], given_)
    check_tree_row(TWO_TURNS, output)
    assert output.response_logprobs == given_


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_response_may_be_cut_at_its_limit_only(limit):
    response, mask = [11, 12, 50, 13, 14][:limit], [1, 1, 0, 1, 1][:limit]
    assert check_tree_row(TWO_TURNS, row(response, mask), response_length=limit) == [0, 3]
    for other in (None, limit + 1):
        with pytest.raises(RowMismatchError, match=f"ends after {limit} tokens, but {4 - sum(mask)} more were sampled"):
            check_tree_row(TWO_TURNS, row(response, mask), response_length=other)


REFUSED = {
    "a mask of all ones": (
        row([11, 12, 50, 13, 14], [1] * 5),
        r"response token 2 \(before turn 2\) has the mask 1, but was not sampled",
    ),
    "a masked turn": (
        row([11, 12, 50, 13, 14], [0, 0, 0, 1, 1]),
        r"response token 0 \(in turn 1\) has the mask 0, but was sampled",
    ),
    "a turn tokenized again": (
        row([11, 19, 50, 13, 14], [1, 1, 0, 1, 1]),
        r"response token 1 \(in turn 1\) is 19, the engine sampled 12",
    ),
    "another observation": (
        row([11, 12, 51, 13, 14], [1, 1, 0, 1, 1]),
        r"response token 2 \(before turn 2\) is 51, the engine was asked with 50",
    ),
    "another prompt of the same length": (
        row([11, 12, 50, 13, 14], [1, 1, 0, 1, 1], prompt=[1, 2, 9]),
        r"prompt token 2 is 9, the engine was asked with 3",
    ),
    "an end token that nobody sampled": (
        row([11, 12, 50, 13, 14, 99], [1, 1, 0, 1, 1, 1]),
        r"response token 5, after the last turn, has the mask 1, but was not sampled",
    ),
    "too few log-probs": (
        row([11, 12, 50, 13, 14], [1, 1, 0, 1, 1], [-0.11, -0.12]),
        "response_logprobs has 2 entries for 5 response_ids",
    ),
    "other log-probs": (
        row([11, 12, 50, 13, 14], [1, 1, 0, 1, 1], [-0.11, -0.12, 0.0, -0.14, -0.13]),
        r"response token 3 \(in turn 2\) has the log-prob -0.14, the engine returned -0.13",
    ),
    "log-probs that are not a number": (
        row([11, 12, 50, 13, 14], [1, 1, 0, 1, 1], [-0.11, float("nan"), 0.0, -0.13, -0.14]),
        "has the log-prob nan",
    ),
    "the last turn missing": (row([11, 12, 50], [1, 1, 0]), "ends after 3 tokens, but 2 more were sampled"),
    "an end token taken away": (row([11, 12, 50, 13], [1, 1, 0, 1]), "but 1 more were sampled, .* turn 2"),
    "a mask of another length": (row([11, 12, 50, 13, 14], [1, 1, 0, 1]), "response_mask has 4 entries for 5"),
    "a turn in the prompt": (
        row([13, 14], [1, 1], prompt=[*PROMPT, 11, 12, 50]),
        "prompt_ids has 6 tokens, the first turn was asked for with 3",
    ),
    "a prompt in the response": (
        row([2, 3, 11, 12, 50, 13, 14], [0, 0, 1, 1, 0, 1, 1], prompt=[1]),
        "a prompt of 1 tokens, but asked for the first turn with 3",
    ),
}


@pytest.mark.parametrize(("output", "words"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_is_not_what_was_sampled_is_refused(output, words):
    with pytest.raises(RowMismatchError, match=words):
        check_tree_row(TWO_TURNS, copy.deepcopy(output), response_length=100)


def test_calls_after_the_answer_that_are_no_part_of_the_row_are_refused():
    whole = [*PROMPT, 11, 12, 50, 13, 14]
    checked = record((PROMPT, [11, 12]), ([*PROMPT, 11, 12, 50], [13, 14]), ([*whole, 70], [15]))
    with pytest.raises(RowMismatchError, match="but 1 more were sampled, the first of them in turn 3"):
        check_tree_row(checked, row([11, 12, 50, 13, 14], [1, 1, 0, 1, 1]), response_length=100)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([*PROMPT, 19, 12, 50], "before turn 2: token 3 was 11 and is 19 now"),  # the text tokenized again
        ([1, 9, 3, 11, 12, 50], "before turn 2: token 1 was 2 and is 9 now"),  # the prompt rendered again
        ([*PROMPT, 50], "before turn 2: token 3 was 11 and is 50 now"),  # thinking stripped, a summary
        (PROMPT, "before turn 2: token 3 was 11 and is nothing now"),  # from the beginning
    ],
)
def test_a_context_that_was_replaced_is_refused_in_a_tree(second, words):
    generations = record((PROMPT, [11, 12]), (second, [13]))
    response = [*second[3:], 13]
    with pytest.raises(ContextRewrittenError, match=words):
        check_tree_row(generations, row(response, [0] * (len(response) - 1) + [1]))


def test_a_loop_that_did_not_ask_gets_its_own_words():
    for check in (check_tree_row, lambda record, output: check_chain_rows(record, [output], None)):
        with pytest.raises(NothingSampledError, match=r"without asking the model.*raise verl_atpo.tools.ToolOutage"):
            check([], row([0], [0]))


def test_an_end_token_that_the_loop_takes_away_is_not_trained():
    """verl does so for models whose template writes another token there: what is left of the turn was sampled."""
    generations = record((PROMPT, [11, 12]), ([*PROMPT, 11, 50], [13]))
    assert check_tree_row(generations, row([11, 50, 13], [1, 0, 1])) == [0, 2]
    with pytest.raises(RowMismatchError, match="is 12, the engine was asked with 50"):
        check_tree_row(generations, row([11, 12, 13], [1, 1, 1]))


def test_turns_that_nothing_separates_are_refused_in_a_tree():
    generations = record((PROMPT, [11, 12, 13]), ([*PROMPT, 11, 12], [14]))
    with pytest.raises(RowMismatchError, match="Nothing separates turn 2 from the turn before"):
        check_tree_row(generations, row([11, 12, 14], [1, 1, 1]))
    check_chain_rows(generations, [row([11, 12, 14], [1, 1, 1])], None)


def test_a_continued_turn_is_one_turn():
    generations = record((PROMPT, [11]), ([*PROMPT, 11], [12]), ([*PROMPT, 11, 12, 50], [13]))
    assert check_tree_row(generations, row([11, 12, 50, 13], [1, 1, 0, 1])) == [0, 3]


SUMMARY = record(
    (PROMPT, [11, 12]), ([*PROMPT, 11, 12, 50], [13]), ([*PROMPT, 77], [14]), ([*PROMPT, 77, 14, 51], [15])
)
"""Two turns, then a context with a summary and two more."""


def test_a_chain_has_a_row_for_each_stretch():
    assert [(part.turn, part.prompt_tokens, part.starts) for part in stretches(SUMMARY)] == [
        (1, 3, [3, 6]),
        (3, 4, [4, 6]),
    ]
    early = row([11, 12, 50, 13], [1, 1, 0, 1])
    late = row([14, 51, 15], [1, 0, 1], prompt=[*PROMPT, 77])
    in_response = row([77, 14, 51, 15], [0, 1, 0, 1])  # the summary counted as an observation
    for outputs in ([early, late], [late, early], [late], [early], [early, in_response]):
        check_chain_rows(SUMMARY, copy.deepcopy(outputs), None)
    with pytest.raises(RowMismatchError, match=r"Output 2 .* has turns that an earlier output has"):
        check_chain_rows(SUMMARY, copy.deepcopy([early, early]), None)
    with pytest.raises(RowMismatchError, match=r"response token 1 \(before turn 4\) has the mask 1"):
        check_chain_rows(SUMMARY, [row([14, 51, 15], [1, 1, 1], prompt=[*PROMPT, 77])], None)


def test_a_chain_gets_its_log_probs():
    output = row([14, 51, 15], [1, 0, 1], prompt=[*PROMPT, 77])
    check_chain_rows(SUMMARY, [output], None)
    assert output.response_logprobs == [-0.14, 0.0, -0.15]


def test_without_log_probs_of_the_engine_there_are_none():
    generations = record((PROMPT, [11, 12]))
    generations[0].output.log_probs = None
    output = row([11, 12], [1, 1])
    check_chain_rows(generations, [output], None)
    assert output.response_logprobs is None


TOKENS = st.lists(st.integers(10, 13), min_size=1, max_size=4)
MUTATIONS = ("token", "mask", "log-prob", "order", "shorter", "longer", "prompt", "mask length", "log-prob length")


@st.composite
def sound(draw) -> tuple[list[Generation], AgentLoopOutput]:
    """A record of one to four turns, and its row with what may stand after it."""
    turns = draw(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=4))
    context, mask, log_probs, steps = list(PROMPT), [], [], []
    for number, (sampled, seen) in enumerate(turns):
        steps.append((list(context), sampled))
        last = number == len(turns) - 1
        seen = [] if last and draw(st.booleans()) else seen
        context += sampled + seen
        mask += [1] * len(sampled) + [0] * len(seen)
        log_probs += [-token / 100 for token in sampled] + [0.0] * len(seen)
    return record(*steps), row(context[len(PROMPT) :], mask, log_probs)


def mutated(draw, output: AgentLoopOutput, kind: str) -> None:
    """Change one field of a row at one place."""
    length = len(output.response_ids)
    at = draw(st.integers(0, length - 1))
    match kind:
        case "token":
            output.response_ids[at] = draw(st.integers(10, 14))
        case "mask":
            output.response_mask[at] = 1 - output.response_mask[at]
        case "log-prob":
            output.response_logprobs[at] += draw(st.sampled_from([-1.0, 0.01, float("nan"), float("inf")]))
        case "order":
            other = draw(st.integers(0, length - 1))
            for field in (output.response_ids, output.response_mask, output.response_logprobs):
                field[at], field[other] = field[other], field[at]
        case "shorter":
            for field in (output.response_ids, output.response_mask, output.response_logprobs):
                del field[at]
        case "longer":
            for field, value in (
                (output.response_ids, 10),
                (output.response_mask, 1),
                (output.response_logprobs, -0.1),
            ):
                field.insert(at, value)
        case "prompt":
            output.prompt_ids[draw(st.integers(0, 2))] = draw(st.integers(0, 4))
        case "mask length":
            del output.response_mask[at]
        case "log-prob length":
            del output.response_logprobs[at]


def trained(output: AgentLoopOutput) -> list[tuple]:
    """What a trainer learns from a row: each token with the mask 1, its log-prob and all tokens before it."""
    whole = [*output.prompt_ids, *output.response_ids]
    before = list(accumulate(([token] for token in whole), initial=[]))[len(output.prompt_ids) :]
    masked = zip(output.response_ids, output.response_mask, output.response_logprobs, before, strict=False)
    return [(token, repr(log_prob), context) for token, bit, log_prob, context in masked if bit]


@given(sound())
def test_every_sound_row_passes(case):
    generations, output = case
    before = copy.deepcopy(output)
    starts = check_tree_row(generations, output, response_length=100)
    assert output == before and len(starts) == len(generations)


@given(st.data(), sound(), st.sampled_from(MUTATIONS), st.booleans())
def test_every_mutation_that_changes_what_is_trained_is_refused(data, case, kind, chain):
    generations, output = case
    before = trained(output)
    mutated(data.draw, output, kind)
    lengths = {len(output.response_ids), len(output.response_mask), len(output.response_logprobs)}
    assume(output.response_logprobs)  # where there are none they are filled in
    assume(trained(output) != before or len(lengths) > 1)
    with pytest.raises((RowMismatchError, ContextRewrittenError)):
        if chain:
            check_chain_rows(generations, [output], 100)
        else:
            check_tree_row(generations, output, 100)
