"""What a reward function may return, and whose fault it is that there is none."""

from __future__ import annotations

import asyncio
import collections
import decimal
import fractions
import logging
import pickle
import threading
import time
import types
from types import SimpleNamespace

import numpy as np
import pytest
import ray.exceptions
import torch

from verl_atpo.config import ConfigError, WatchConfig
from verl_atpo.failure import ExitError, StrayCancellation, TrajectoryBug, is_outage
from verl_atpo.rollout import reward
from verl_atpo.rollout.health.reward_worker import contain_reward_functions, contained_reward
from verl_atpo.rollout.reward import as_number, blamed, check_result, check_reward, sendable

NUMBERS = [0, -1, 0.5, True, np.float32(0.5), np.int64(3), np.array(0.5), torch.tensor(0.5), np.bool_(True)]
NUMBERS += [fractions.Fraction(1, 2), decimal.Decimal("0.5"), -3.4e38]


class Odd:
    """Raises when anybody looks at it."""

    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __repr__(self) -> str:
        raise ValueError("no words")

    def __reduce__(self) -> str:
        raise TypeError("cannot be pickled")


NO_NUMBERS = {
    "an object that raises": (Odd(), "a Odd: expected .*Odd is no number"),
    "a generator": ((each for each in [1.0]), "generator is no number"),
    "a list score": ({"score": [1.0]}, "list is no number"),
    "a nested score": ({"score": {"score": 1.0}}, "dict is no number"),
    "a missing value": (np.ma.masked, "not finite"),
    "(0.5, {})": ((0.5, {}), "tuple is no number"),
    "[0.5]": ([0.5], "list is no number"),
    "array": (np.array([0.5]), "ndarray is no number"),
    "tensor": (torch.tensor([0.5]), "Tensor is no number"),
    "text": ("0.5", "str is no number"),
    "bytes": (b"1", "bytes is no number"),
    "None": (None, "NoneType is no number"),
    "set": ({0.5}, "set is no number"),
    "complex": (1j, "complex is no number"),
    "score None": ({"score": None}, "NoneType is no number"),
    "score text": ({"score": "1"}, "str is no number"),
    "no score": ({"reward": 1.0}, "no key 'score'"),
    "empty": ({}, "no key 'score'"),
    "nan": (float("nan"), "not finite"),
    "inf": (np.float64("-inf"), "not finite"),
    "nan score": ({"score": float("nan"), "acc": 1}, "not finite"),
    "large": (1e39, "too large for float32"),
    "larger": (10**400, "int is no number"),
    "an exception": (ValueError("x"), "ValueError is no number"),
}


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers_of_every_kind_are_rewards(value):
    check_result(value)
    check_result({"score": value, "acc": 1.0})
    assert as_number(value) == pytest.approx(float(value))


@pytest.mark.parametrize(("value", "words"), NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_everything_else_is_refused_with_what_was_returned(value, words):
    with pytest.raises(
        TrajectoryBug, match=f"^The reward function returned .*{words}.*Remedy: fix the reward function"
    ):
        check_result(value)


def test_any_mapping_is_sent_as_a_dict_without_what_cannot_be_sent():
    given = {"score": np.float32(0.5), "acc": True, "lock": threading.Lock(), "odd": Odd(), "parts": {"a": [1]}}
    for mapping in (given, types.MappingProxyType(given), collections.UserDict(given)):
        sent = sendable(mapping)
        assert type(sent) is dict and pickle.loads(pickle.dumps(sent)) == sent
        assert sent["score"] == 0.5 and sent["acc"] is True and sent["parts"] == {"a": [1]}
        assert sent["lock"].startswith("<unlocked _thread.lock") and sent["odd"] == "[Odd: ValueError]"
    assert sendable(0.5) == 0.5
    with pytest.raises(TrajectoryBug, match="no key 'score'"):
        sendable(types.MappingProxyType({"acc": 1.0}))


def test_extra_information_whose_methods_raise_is_written():
    scored = output(1.0, odd=Odd(), fine=1)
    check_reward(scored, computed=True)
    assert scored.extra_fields["reward_extra_info"] == {"odd": "[Odd: ValueError]", "fine": 1}


def test_a_long_value_is_cut():
    with pytest.raises(TrajectoryBug) as refused:
        check_result(["word"] * 1000)
    assert len(str(refused.value)) < 500


def output(reward_score, **extra) -> SimpleNamespace:
    return SimpleNamespace(reward_score=reward_score, extra_fields={"reward_extra_info": extra})


def test_a_reward_becomes_a_float():
    scored = output(torch.tensor(0.5))
    check_reward(scored, computed=True)
    assert type(scored.reward_score) is float and scored.reward_score == 0.5


def test_a_loop_may_set_the_reward_or_leave_it_but_not_to_anything():
    scored = output(None)
    check_reward(scored, computed=False)
    assert scored.reward_score is None
    with pytest.raises(TrajectoryBug, match=r"^The agent loop returned reward_score=\[1\]: expected a finite number"):
        check_reward(output([1]), computed=False)
    with pytest.raises(TrajectoryBug, match=r"^The reward function returned None"):
        check_reward(output(None), computed=True)


def test_a_key_that_verl_uses_itself_is_renamed_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(reward, "_renamed", False)
    for _ in range(2):
        scored = output(1.0, score=1.0, reward=0.3, acc=1.0)
        check_reward(scored, computed=True)
        assert scored.extra_fields["reward_extra_info"] == {"score": 1.0, "function_reward": 0.3, "acc": 1.0}
    assert caplog.text.count("under which verl's validation keeps the score") == 1


@pytest.mark.parametrize("key", ["input", "output", "gts", "step"])
def test_keys_of_validation_files_are_renamed(key, monkeypatch):
    """verl writes the reward's extras over its own columns of the file."""
    scored = output(1.0, score=1.0, **{key: "mine"})
    check_reward(scored, computed=True)
    assert scored.extra_fields["reward_extra_info"] == {"score": 1.0, f"function_{key}": "mine"}


def test_extra_information_can_be_averaged_and_written():
    """verl's validation takes means, and writes JSON lines: both fail on the types of other libraries."""
    given = {
        "acc": np.float32(0.5),
        "exact": np.bool_(True),
        "f1": torch.tensor(0.25),
        "share": decimal.Decimal("0.5"),
        "parts": {"format": [np.int64(1)]},
        "calls": ["search", 2],
        "pred": None,
        "why": "said so",
        7: 1,
    }
    scored = output(1.0, **{str(key): value for key, value in given.items()})
    scored.extra_fields["reward_extra_info"] = given
    check_reward(scored, computed=True)
    assert scored.extra_fields["reward_extra_info"] == {
        "acc": 0.5,
        "exact": True,
        "f1": 0.25,
        "share": 0.5,
        "parts": '{"format": [1]}',
        "calls": "['search', 2]",
        "pred": None,
        "why": "said so",
        "7": 1,
    }
    assert type(scored.extra_fields["reward_extra_info"]["exact"]) is bool


def remote(error: Exception) -> Exception:
    """As Ray hands on what a reward function raised."""
    return ray.exceptions.RayTaskError("compute_score", "trace", error).as_instanceof_cause()


def test_an_outage_of_a_judge_stays_one():
    for error in (ConnectionError("judge"), remote(TimeoutError("judge")), StrayCancellation("client")):
        assert blamed(error, "qa") is error and is_outage(error)


@pytest.mark.parametrize("wrap", [lambda error: error, remote], ids=["here", "Ray"])
def test_a_bug_names_the_reward_function(wrap):
    named = blamed(wrap(KeyError("answer")), "qa")
    assert isinstance(named, TrajectoryBug) and str(named).startswith("The reward function raised KeyError: 'answer'.")
    named = blamed(wrap(TrajectoryBug("The reward function returned None")), "qa")
    assert isinstance(named, TrajectoryBug) and str(named) == "The reward function returned None"
    named = blamed(wrap(NotImplementedError("no such source")), "qa")
    assert isinstance(named, ConfigError) and "data_source='qa'" in str(named)


def test_a_reward_worker_that_died_while_it_was_made_ends_the_run_with_the_cause():
    error = ray.exceptions.RayTaskError(
        "__init__", "Traceback:\n  File x\nSyntaxError: bad (reward.py, line 3)", Exception()
    )
    error._actor_id = "1"
    named = blamed(ray.exceptions.ActorDiedError(error), "qa")
    assert isinstance(named, ConfigError) and "SyntaxError: bad (reward.py, line 3)" in str(named)
    assert "reward.custom_reward_function.path" in str(named)


async def judge(kind: str) -> object:
    match kind:
        case "exit":
            raise SystemExit(3)
        case "cancelled":
            raise asyncio.CancelledError
        case "stop":
            raise StopIteration
        case "tuple":
            return (1.0, {})
    return 1.0


def plain_judge(kind: str) -> object:
    if kind == "stop":
        return next(iter(()))
    try:
        return judge(kind).send(None)
    except StopIteration as returned:
        return returned.value


def wrapped_judge(kind: str) -> object:
    """An async function inside a plain one, as decorators leave it."""
    return judge(kind)


async def test_an_async_function_inside_a_plain_one_is_awaited():
    score = contained_reward(wrapped_judge, WatchConfig())
    assert await asyncio.to_thread(score, "fine") == 1.0
    with pytest.raises(ExitError):
        await asyncio.to_thread(score, "exit")
    with pytest.raises(TrajectoryBug, match="tuple is no number"):
        await asyncio.to_thread(score, "tuple")


CASES = {"exit": ExitError, "cancelled": StrayCancellation, "stop": RuntimeError, "tuple": TrajectoryBug}


@pytest.mark.parametrize(("kind", "error"), CASES.items())
async def test_a_contained_reward_function_raises_errors_only(kind, error):
    config = WatchConfig()
    with pytest.raises(error):
        await contained_reward(judge, config)(kind)
    with pytest.raises(error):
        await asyncio.to_thread(contained_reward(plain_judge, config), kind)
    assert await contained_reward(judge, config)("fine") == contained_reward(plain_judge, config)("fine") == 1.0


def test_the_log_says_where_a_reward_function_stands(caplog):
    def slow() -> float:
        time.sleep(0.5)
        return 1.0

    with caplog.at_level(logging.WARNING):
        assert contained_reward(slow, WatchConfig(warn_s=0.1))() == 1.0
    assert "The reward function has made no progress for" in caplog.text and "time.sleep(0.5)" in caplog.text


def test_verl_loads_the_users_function_contained(tmp_path):
    from verl.trainer.ppo import reward as verls

    file = tmp_path / "reward.py"
    file.write_text("def compute_score(factor, **kwargs):\n    return (factor, {})\n")
    config = SimpleNamespace(
        reward={"custom_reward_function": {"path": str(file), "name": "compute_score", "reward_kwargs": {"factor": 2}}},
        get=lambda name: None,
    )
    undo = contain_reward_functions()
    undo_again = contain_reward_functions()
    try:
        with pytest.raises(TrajectoryBug, match=r"returned \(2, {}\)"):
            verls.get_custom_reward_fn(config)(data_source="x")
        config.reward = {}
        assert verls.get_custom_reward_fn(config) is None
    finally:
        undo_again()
        undo()
