"""What stops the training run: bugs at once, outages when a whole step of trees failed and none finished."""

from __future__ import annotations

import pytest
import ray.exceptions
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_atpo.config import ConfigError
from verl_atpo.failure import EngineOutage, is_outage
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


def test_a_bug_of_any_worker_stops_at_once():
    with pytest.raises(RunStopped, match="loop is broken"):
        StopRule(prompts=8).check([Failures(finished=7), Failures(bug="loop is broken")])


def test_outages_stop_when_a_whole_step_failed_and_none_finished():
    rule = StopRule(prompts=4)
    rule.check([Failures(finished=8, failed=3), Failures(failed=2)])  # some failed, but trees finish
    rule.check([Failures(finished=8, failed=5), Failures(failed=3)])  # three since
    with pytest.raises(RunStopped, match=r"last 4 trees failed.*search is out.*max_regrows"):
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
    message = describe_bug(remote, {"uid": "p1", "agent_name": "words"})
    assert "KeyError: 'x'" in message and len(message) < 1000


def test_the_buffer_asks_only_when_a_prompt_failed(monkeypatch):
    asked = []
    monkeypatch.setattr(ReplayBuffer, "_sync_metadata_from_transfer_queue", lambda self: None)
    undo = check_while_polling(lambda: asked.append(1))
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
