"""What an agent loop may return, and the form that its fields take."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.failure import TrajectoryBug
from verl_atpo.tree.outputs import plain_outputs

RESPONSE, MASK, LOG_PROBS = [11, 12, 50, 13], [1, 1, 0, 1], [-0.5, -0.25, 0.0, -1.0]
FORMS = {
    "tensor": torch.tensor,
    "array": np.array,
    "tuple": tuple,
    "list of tensors": lambda values: [torch.tensor(value) for value in values],
    "list of numpy's": lambda values: list(np.array(values)),
    "floats": lambda values: [float(value) for value in values],
}


def output(**fields: object) -> SimpleNamespace:
    values = {"prompt_ids": [1, 2], "response_ids": RESPONSE, "response_mask": MASK, "response_logprobs": None}
    return SimpleNamespace(**{**values, **fields})


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_numbers_of_any_library_become_lists(form):
    (plain,) = plain_outputs(
        output(
            prompt_ids=form([1, 2]),
            response_ids=form(RESPONSE),
            response_mask=form(MASK),
            response_logprobs=form(LOG_PROBS),
        )
    )
    found = (plain.prompt_ids, plain.response_ids, plain.response_mask, plain.response_logprobs)
    assert found == ([1, 2], RESPONSE, MASK, LOG_PROBS)
    assert {type(value) for values in found[:3] for value in values} == {int}
    assert {type(value) for value in found[3]} == {float}


def test_masks_of_truth_values_are_masks():
    for mask in ([True, True, False, True], torch.tensor(MASK).bool(), np.array(MASK, dtype=bool)):
        assert plain_outputs(output(response_mask=mask))[0].response_mask == MASK


@pytest.mark.parametrize("odd", [None, math.nan, -math.inf, "unknown"])
def test_log_probs_that_are_not_trained_cannot_spoil_sums(odd):
    (plain,) = plain_outputs(output(response_logprobs=[-0.5, -0.25, odd, -1.0]))
    assert plain.response_logprobs == LOG_PROBS
    (trained,) = plain_outputs(output(response_logprobs=[odd, -0.25, 0.0, -1.0]))
    assert trained.response_logprobs[0] is odd  # the comparison with the record refuses it


def test_a_mask_that_is_none_is_left_for_the_comparison():
    (plain,) = plain_outputs(output(response_mask=[1, 0.5, 2, -1]))
    assert plain.response_mask == [1, 0.5, 2, -1]


def test_one_output_a_list_and_a_tuple_are_outputs():
    one = AgentLoopOutput(prompt_ids=[1], response_ids=[2], response_mask=[1], metrics={})
    assert plain_outputs(one) == plain_outputs([one]) == plain_outputs((one,)) == [one]


def test_an_object_that_a_loop_fills_again_leaves_the_earlier_outputs_alone():
    reused = AgentLoopOutput(prompt_ids=[1], response_ids=[2], response_mask=[1], metrics={}, extra_fields={"a": 1})
    (first,) = plain_outputs(reused)
    reused.prompt_ids, reused.response_ids, reused.reward_score = [7], [8, 9], 1.0
    reused.response_mask[0] = 0
    reused.extra_fields["a"] = 2
    assert (first.prompt_ids, first.response_ids, first.response_mask) == ([1], [2], [1])
    assert first.extra_fields == {"a": 1} and first.reward_score is None


def test_what_is_beside_the_tokens_is_as_verl_reads_it():
    (plain,) = plain_outputs(output(num_turns=np.int64(4), extra_fields={"reward_extra_info": None, "a": None}))
    assert type(plain.num_turns) is int and plain.num_turns == 4 and plain.extra_fields == {"a": None}
    assert plain_outputs(output(extra_fields=None))[0].extra_fields == {}


REFUSED = {
    "no number of turns": (output(num_turns=None), "returned num_turns=None: expected the number of messages"),
    "a list of extras": (output(extra_fields=[1]), r"returned extra_fields=list \[1\]: expected a dict"),
    "None": (None, "The agent loop returned None: expected an AgentLoopOutput"),
    "dict": ({"prompt_ids": [1]}, "returned dict {'prompt_ids'"),
    "tuple of lists": (([1], [2], [1]), r"returned list \[1\]"),
    "text": ("done", "returned str 'done'"),
    "nothing": ([], "returned no output"),
    "no mask": (output(response_mask=None), "returned response_mask=None: expected a list of numbers"),
    "text for ids": (output(response_ids="w1 w2"), "returned response_ids=str 'w1 w2'"),
    "a batch": (output(response_ids=[RESPONSE]), r"response_ids with list \[11, 12, 50, 13\] at 0: expected token ids"),
    "half an id": (output(prompt_ids=[1, 2.5]), "prompt_ids with float 2.5 at 1"),
    "no id": (output(prompt_ids=[1, math.nan]), "prompt_ids with float nan at 1"),
}


@pytest.mark.parametrize(("returned", "words"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_by_its_field(returned, words):
    with pytest.raises(TrajectoryBug, match=words):
        plain_outputs(returned)
