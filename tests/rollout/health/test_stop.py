"""What stops the training run: a setting that cannot work at once, bugs and outages when enough prompts failed."""

from __future__ import annotations

import pytest
import ray.exceptions
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_atpo.config import ConfigError
from verl_atpo.deadlines.containment import called
from verl_atpo.failure import EngineOutage, ExitError, died_while_made, is_outage
from verl_atpo.rollout.health.stop import Failures, RunStopped, StopRule, check_while_polling, describe_bug
from verl_atpo.tools.contract import ToolOutage


@pytest.mark.parametrize(
    "error",
    [
        ToolOutage("search is out"),
        EngineOutage("gone"),
        ConnectionResetError("peer"),
        TimeoutError(),
        ray.exceptions.ActorDiedError(),
        ray.exceptions.RayTaskError("f", "trace", ConnectionError("peer")).as_instanceof_cause(),
    ],
    ids=repr,
)
def test_outages(error):
    assert is_outage(error)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ConfigError("no"),
        RuntimeError("shape"),
        AssertionError(),
        OSError(2, "no such file"),
        ray.exceptions.RayTaskError("f", "trace", KeyError("x")).as_instanceof_cause(),
    ],
    ids=repr,
)
def test_bugs(error):
    assert not is_outage(error)


def test_a_setting_that_cannot_work_stops_at_once():
    with pytest.raises(RunStopped, match=r"^reward.path is wrong$"):
        StopRule(prompts=8).check([Failures(finished=7), Failures(fatal="reward.path is wrong")])


def bugs(*counts: int) -> list[Failures]:
    return [
        Failures(bugs=count, bug=f"worker {number} is broken." if count else None)
        for number, count in enumerate(counts)
    ]


def test_a_bug_stops_when_it_comes_again_on_several_trees():
    rule = StopRule(prompts=8, max_bugs=3)
    rule.check(bugs(0, 1))
    rule.check(bugs(1, 1))
    with pytest.raises(RunStopped, match=r"^worker 0 is broken.$"):
        rule.check(bugs(1, 2))


def test_a_bug_that_comes_now_and_then_does_not_stop():
    """One prompt in eight, step after step: never three while a step of prompts finishes."""
    rule = StopRule(prompts=8, max_bugs=3)
    for step in range(1, 20):
        rule.check([Failures(finished=7 * step + 1, bugs=step, bug="rare")])
    with pytest.raises(RunStopped, match="rare"):
        rule.check([Failures(finished=7 * 19 + 2, bugs=22, bug="rare")])


def test_a_step_of_which_nothing_is_left_stops_with_the_bug():
    rule = StopRule(prompts=2, max_bugs=3)
    with pytest.raises(RunStopped, match=r"^broken"):
        rule.check([Failures(bugs=1, bug="broken", failed=1, outage="gone")])


def test_with_max_bugs_of_1_the_first_stops():
    with pytest.raises(RunStopped, match=r"^broken"):
        StopRule(prompts=8, max_bugs=1).check([Failures(finished=5, bugs=1, bug="broken")])


def test_outages_stop_when_a_whole_step_failed_and_none_finished():
    rule = StopRule(prompts=4)
    rule.check([Failures(finished=8, failed=3), Failures(failed=2)])  # some failed, but trees finish
    rule.check([Failures(finished=8, failed=5), Failures(failed=3)])  # three since
    with pytest.raises(RunStopped, match=r"^search is out. The last 4 trees failed.*max_regrows"):
        rule.check([Failures(finished=8, failed=5, outage="search is out"), Failures(failed=4)])


def test_a_tree_that_finishes_begins_the_count_anew():
    rule = StopRule(prompts=2)
    rule.check([Failures(finished=1, failed=0)])
    rule.check([Failures(finished=1, failed=1)])
    rule.check([Failures(finished=2, failed=2)])
    rule.check([Failures(finished=2, failed=3)])
    with pytest.raises(RunStopped):
        rule.check([Failures(finished=2, failed=4)])


def test_a_message_names_what_ray_wrapped_and_stays_short():
    remote = ray.exceptions.RayTaskError("score", "a long trace\n" * 500, KeyError("x")).as_instanceof_cause()
    message = describe_bug(remote, {"uid": "p1", "agent_name": "words", "extra_info": {"text": "long " * 1000}})
    assert "KeyError: 'x'" in message and len(message) < 1000


def test_a_message_begins_with_the_cause_and_ends_with_the_row():
    prompt = {"uid": "p1", "agent_name": "words", "data_source": "qa", "extra_info": {"index": 7}}
    for error in (KeyError("x"), ConfigError("No reward. Remedy: write one.")):
        message = describe_bug(error, prompt)
        assert message.endswith("It occurred on prompt p1 (data_source='qa', extra_info={'index': 7}).")
    assert message.startswith("No reward. Remedy")


def test_the_place_is_where_user_code_raised():
    def leave():
        raise SystemExit(3)

    try:
        called(leave)
    except ExitError as error:
        message = describe_bug(error, {"agent_name": "words"})
    assert "raised ExitError: SystemExit: 3 at" in message and "test_stop.py" in message and "in leave" in message


@pytest.mark.parametrize(("cause", "made"), [(True, True), (False, False)])
def test_an_actor_that_died_while_it_was_made_is_known(cause, made):
    error = ray.exceptions.RayTaskError("__init__", "trace", AttributeError("no compute_score"))
    error._actor_id = "1"
    died = ray.exceptions.ActorDiedError(error if cause else None)
    wrapped = RuntimeError("reward")
    wrapped.__cause__ = died
    assert died_while_made(died) == died_while_made(wrapped) == made


def test_the_buffer_asks_only_when_a_prompt_failed(monkeypatch):
    asked = []
    monkeypatch.setattr(ReplayBuffer, "_sync_metadata_from_transfer_queue", lambda self: None)
    undo = check_while_polling(lambda: asked.append(1), every_s=3600.0)
    buffer = object.__new__(ReplayBuffer)
    buffer.failure_keys = {"train": set()}
    buffer._sync_metadata_from_transfer_queue()
    assert not asked
    buffer.failure_keys["val"] = {"p1"}
    buffer._sync_metadata_from_transfer_queue()
    assert asked
    undo()
    buffer._sync_metadata_from_transfer_queue()
    assert len(asked) == 1


def test_the_buffer_asks_now_and_then_though_no_prompt_failed(monkeypatch):
    asked = []
    monkeypatch.setattr(ReplayBuffer, "_sync_metadata_from_transfer_queue", lambda self: None)
    undo = check_while_polling(lambda: asked.append(1), every_s=0.0)
    buffer = object.__new__(ReplayBuffer)
    buffer.failure_keys = {}
    buffer._sync_metadata_from_transfer_queue()
    undo()
    assert asked == [1]
