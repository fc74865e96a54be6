"""The rollout worker itself: what it publishes, what it tries again, and which bugs it holds for the trainer."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.assets.tiny_model import write_model
from tests.assets.worker import Client, Queue, Scorer, make_worker, prompt

TRAIN = {"validate": False, "step": 1, "sample_index": 0, "rollout_n": 0}
VALIDATE = {**TRAIN, "validate": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def queue(monkeypatch):
    return Queue(monkeypatch)


async def run(worker, loop: str, trajectory=TRAIN, uid: str = "p1"):
    await worker._run_prompt(prompt(uid, loop), {"temperature": 1.0}, trajectory=trajectory)
    return await worker.failures()


async def test_a_tree_is_published_whole(model, queue):
    failures = await run(make_worker(model, "words", scorer=Scorer(lambda: 0.5)), "words")
    assert queue.status == {"p1": "finished"} and queue.rows["p1"] == ["p1_0_0", "p1_1_0", "p1_2_0"]
    assert (failures.finished, failures.failed, failures.bug) == (1, 0, None)


async def test_a_trajectory_of_two_outputs_has_two_rows(model, queue):
    failures = await run(make_worker(model, "two_outputs", scorer=Scorer(lambda: 0.5)), "two_outputs")
    assert queue.status == {"p1": "finished"} and failures.bug is None
    assert queue.rows["p1"] == [f"p1_{leaf}_{row}" for leaf in range(3) for row in range(2)]


async def test_an_adaptive_tree_that_succeeds_has_the_rows_of_its_chains_and_leaves_the_rest_to_others(model, queue):
    adaptive = "algorithm.atpo.expansion.budget=adaptive"
    scores = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    worker = make_worker(
        model, "words", adaptive, "algorithm.atpo.expansion.spares=2", scorer=Scorer(lambda: scores.pop(0))
    )
    await run(worker, "words", uid="rich")
    await run(worker, "words", uid="poor")
    assert queue.status == {"rich": "finished", "poor": "finished"} and scores == []
    assert {uid: len(rows) for uid, rows in queue.rows.items()} == {"rich": 2, "poor": 4}


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        ("missing_key", ["'missing_key'", "KeyError: 'weather'", "broken_loops.py", "in observe", "fix it"]),
        ("forgetful", ["row that is not what was sampled", "response token 0"]),
        ("overlapping", ["replaced its context", "an output for every stretch"]),
    ],
)
async def test_a_bug_of_the_loop_stops_the_run(model, queue, loop, words):
    failures = await run(make_worker(model, loop, scorer=Scorer(lambda: 0.5)), loop)
    assert queue.status == {"p1": "failure"} and not queue.rows
    for word in [*words, "prompt p1", "'index': 7"]:
        assert word in failures.bug
    assert failures.bugs == 1 and len(failures.bug) < 1200


NOT_SAMPLED = {
    "all_ones": "has the mask 1, but was not sampled",
    "end_token": "after the last turn, has the mask 1, but was not sampled",
    "few_log_probs": "response_logprobs has 3 entries for",
    "tokenized_again": "response token 1 (in turn 1) is 3, the engine sampled",
    "another_prompt": "prompt token 1 is",
    "beside": "but 3 more were sampled, the first of them in turn 3",
    "self_check": "but 6 more were sampled, the first of them in turn 4",
}


@pytest.mark.parametrize("mode", [TRAIN, VALIDATE], ids=["tree", "chain"])
@pytest.mark.parametrize(("loop", "words"), NOT_SAMPLED.items())
async def test_what_was_not_sampled_is_not_trained(model, queue, loop, words, mode):
    failures = await run(make_worker(model, loop, scorer=Scorer(lambda: 0.5)), loop, mode)
    assert queue.status == {"p1": "failure"} and words in failures.bug
    assert mode is VALIDATE or not queue.rows


async def test_log_probs_that_a_loop_does_not_return_are_those_of_the_record(model, queue):
    await run(make_worker(model, "no_log_probs", scorer=Scorer(lambda: 0.5)), "no_log_probs")
    assert queue.status == {"p1": "finished"} and len(queue.fields) == 3
    for fields in queue.fields.values():
        mask, log_probs = fields["response_mask"], fields["rollout_log_probs"]
        assert ((log_probs < 0) == (mask == 1)).all() and (log_probs[mask == 0] == 0).all()


async def test_nothing_is_asked_after_the_end_of_the_loop(model, queue, caplog):
    asked = []
    worker = make_worker(model, "left_task", client=Client(lambda: asked.append(1)), scorer=Scorer(lambda: 0.5))
    await run(worker, "left_task")
    await asyncio.sleep(0.05)
    assert queue.status == {"p1": "finished"} and len(queue.rows["p1"]) == 3
    (stats,) = worker._stats.trees
    assert len(asked) == stats.nodes
    assert "asked the engine after the loop's end" in caplog.text


async def test_a_loop_that_never_asks_ends_the_run_with_its_own_words(model, queue):
    failures = await run(make_worker(model, "never_asks", scorer=Scorer(lambda: 0.5)), "never_asks")
    assert "ended without asking the model" in failures.bug and "raise verl_atpo.tools.ToolOutage" in failures.bug


async def test_a_loop_that_does_not_always_ask_is_run_again(model, queue):
    failures = await run(make_worker(model, "sometimes_asks", scorer=Scorer(lambda: 0.5)), "sometimes_asks")
    assert queue.status == {"p1": "finished"} and failures.bug is None


async def test_a_bug_is_not_tried_again(model, queue):
    calls = []
    worker = make_worker(model, "missing_key", client=Client(lambda: calls.append(1)), scorer=Scorer(lambda: 0.5))
    await run(worker, "missing_key")
    assert len(calls) <= 2  # at most one generation of each of the two chains


def refuses():
    raise KeyError("no such answer")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (lambda: float("nan"), ["reward function returned nan", "finite"]),
        (lambda: float("inf"), ["reward function returned inf", "finite"]),
        (lambda: 1e39, ["reward function returned 1e+39", "too large for float32"]),
        (lambda: None, ["reward function returned None", "expected a finite number"]),
        (lambda: "0.5", ["reward function returned '0.5'", "str is no number"]),
        (lambda: [0.5], ["reward function returned [0.5]", "list is no number"]),
        (lambda: (0.5, {"why": "x"}), ["reward function returned (0.5, {'why': 'x'})", "tuple is no number"]),
        (refuses, ["reward function raised KeyError: 'no such answer'", "fix it"]),
    ],
)
async def test_a_reward_that_cannot_be_trained_on_stops_the_run(model, queue, score, words):
    failures = await run(make_worker(model, "words", scorer=Scorer(score)), "words")
    assert queue.status == {"p1": "failure"}
    for word in words:
        assert word in failures.bug


async def test_no_reward_at_all_stops_the_run(model, queue):
    failures = await run(make_worker(model, "words"), "words")
    assert "No reward is there" in failures.bug


async def test_validation_tells_its_bugs_too(model, queue):
    """verl itself only logs them, and trains on."""
    worker = make_worker(model, "missing_key", scorer=Scorer(lambda: 0.5))
    failures = await run(worker, "missing_key", VALIDATE)
    assert queue.status == {"p1": "failure"} and "KeyError: 'weather'" in failures.bug


@pytest.mark.parametrize("loop", ["words", "unplugged"])
async def test_an_outage_is_tried_again_and_fails_one_tree(model, queue, loop, caplog):
    def gone():
        if loop == "words":
            raise RuntimeError("EngineCore died")

    worker = make_worker(model, loop, client=Client(gone), scorer=Scorer(lambda: 0.5))
    with caplog.at_level(logging.WARNING):
        failures = await run(worker, loop)
    assert queue.status == {"p1": "failure"} and failures.bug is None
    assert (failures.finished, failures.failed) == (0, 1)
    assert ("EngineCore died" if loop == "words" else "no route to the weather service") in failures.outage
    assert "again (1 of 1)" in caplog.text
