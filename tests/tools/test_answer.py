"""What a model reads of what a tool returns, whatever that is."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import pathlib
import types
import unittest.mock

import numpy as np
import PIL.Image
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verl.tools.function_tool import normalize_function_tool_return
from verl.tools.schemas import ToolResponse

from verl_atpo.tools.answer import answer_of, as_text, compact, end_episode, ends_episode, fixed

Point = collections.namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Place:
    name: str
    at: tuple[int, int]


class Page(pydantic.BaseModel):
    title: str


class Board:
    """Shown with its address."""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (5, "5"),
        (None, "None"),
        (b"caf\xc3\xa9 \xff", "café �"),
        ({"n": np.int64(3), "x": np.float32(0.5)}, '{"n": 3, "x": 0.5}'),
        ({"raw": b"ab"}, '{"raw": "ab"}'),
        ({"day": datetime.date(2026, 11, 30), "at": datetime.time(9)}, '{"day": "2026-11-30", "at": "09:00:00"}'),
        ({(1, 2): "a", np.int64(7): "b"}, '{"[1, 2]": "a", "7": "b"}'),
        ({"a": {"b": (1, {2})}}, '{"a": {"b": [1, [2]]}}'),
        ({"path": pathlib.PurePosixPath("/a"), "price": decimal.Decimal("0.10")}, '{"path": "/a", "price": "0.10"}'),
        ({"colour": Colour.RED}, '{"colour": "red"}'),
        (Point(1, 2), '{"x": 1, "y": 2}'),
        (Place("hall", (1, 2)), '{"name": "hall", "at": [1, 2]}'),
        (Page(title="T"), '{"title": "T"}'),
        ([np.float64(0.5), "b"], "[0.5, 'b']"),
        (np.array([[1, 2]]), "[[1, 2]]"),
        ({"b", "a"}, "['a', 'b']"),
        (np.float64(0.25), "0.25"),
        (torch.tensor(0.25), "0.25"),
        ({"n": torch.tensor(2), "x": torch.ones(2, dtype=torch.bfloat16)}, '{"n": 2, "x": [1.0, 1.0]}'),
        (torch.tensor([1, 2]), "[1, 2]"),
        (collections.deque([np.int64(1)]), "[1]"),
        (collections.UserList([np.int64(1)]), "[1]"),
        (types.MappingProxyType({"a": 1}), '{"a": 1}'),
        (ValueError("no such city"), "no such city"),
        ({"error": ValueError("x"), "none": None}, '{"error": "x", "none": null}'),
        ([None, "a"], "[None, 'a']"),
    ],
)
def test_any_value_becomes_text(value: object, text: str) -> None:
    assert as_text(value) == text
    assert answer_of(value)[0].text == text
    assert answer_of((value, 1.0))[0].text == text


ITSELF: list = [1]
ITSELF += [ITSELF, ITSELF]


@pytest.mark.parametrize(
    "value",
    [
        ITSELF,
        {"self": ITSELF},
        Place("hall", ITSELF),  # type: ignore[arg-type]
        functools.reduce(lambda inner, _: [inner], range(5000), []),
        functools.reduce(lambda inner, _: {"a": inner}, range(5000), {}),
        unittest.mock.MagicMock(),
        {"mock": unittest.mock.MagicMock()},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_itself_or_is_very_deep_is_cut(value: object) -> None:
    assert 0 < len(as_text(value)) < 1000


def test_only_what_holds_itself_is_cut() -> None:
    shared = {"a": 1}
    assert as_text({"self": ITSELF, "shared": [shared, shared]}) == (
        '{"self": [1, "...", "..."], "shared": [{"a": 1}, {"a": 1}]}'
    )


def test_a_picture_is_an_image_of_the_answer() -> None:
    picture = PIL.Image.new("RGB", (2, 2))
    for returned in (picture, [picture], (picture, 1.0)):
        response = answer_of(returned)[0]
        assert response.image == [picture] and response.text is None
    assert fixed(picture)[0].image == [picture]


def test_addresses_are_left_out() -> None:
    assert as_text(each for each in "ab") == "['a', 'b']"
    assert as_text(Board()).endswith("Board object at 0x...>") and as_text([Board()]).endswith("at 0x...>']")


@pytest.mark.parametrize(
    ("returned", "text", "reward", "metrics"),
    [
        (("t",), "t", 0.0, {}),
        (("t", None, None), "t", 0.0, {}),
        (("t", 1), "t", 1.0, {}),
        (("t", True), "t", 1.0, {}),
        (("t", np.float32(0.5), {"a": 1}), "t", 0.5, {"a": 1}),
        (("t", torch.tensor(2.0)), "t", 2.0, {}),
        (("t", decimal.Decimal("0.5")), "t", 0.5, {}),
        (("t", 1.0, ["a"]), "t", 1.0, {"metrics": ["a"]}),
        (("title", "text"), '["title", "text"]', 0.0, {}),
        (("title", "1984"), '["title", "1984"]', 0.0, {}),
        (("title", {"a": 1}), '["title", {"a": 1}]', 0.0, {}),
        (("a", "b", "c"), '["a", "b", "c"]', 0.0, {}),
        (("t", 1j), '["t", "1j"]', 0.0, {}),
        (("t", [1.0]), '["t", [1.0]]', 0.0, {}),
        (("t", 10**400), json.dumps(["t", 10**400]), 0.0, {}),
        ((ToolResponse(text="t"), 1.0, {}), "t", 1.0, {}),
    ],
)
def test_tuples(returned: tuple, text: str, reward: float, metrics: dict) -> None:
    response, given_reward, given_metrics = answer_of(returned)
    assert (response.text, given_reward, given_metrics) == (text, reward, metrics)
    assert type(given_reward) is float


@pytest.mark.parametrize("returned", [(), ("obs", 1.0, False, {})])
def test_tuples_that_nobody_can_take_apart(returned: tuple) -> None:
    with pytest.raises(TypeError, match=r"a tuple of \d: expected text, \(text, reward\)"):
        answer_of(returned)


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
PLAIN = st.recursive(SIMPLE, lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=8)


@given(PLAIN, st.none() | st.floats(allow_nan=False), st.none() | st.dictionaries(st.text(), SIMPLE))
def test_what_verl_can_read_reads_as_verl_reads_it(value: object, reward: float | None, metrics: dict | None) -> None:
    for returned in (value, (value,), (value, reward), (value, reward, metrics)):
        assert answer_of(returned) == normalize_function_tool_return(returned)


@given(st.dictionaries(st.text(), PLAIN))
def test_a_mapping_is_json(value: dict) -> None:
    assert json.loads(as_text(value)) == value


def test_an_answer_stays_as_it_was() -> None:
    state = {"seen": [1]}
    answer = answer_of(state)
    state["seen"].append(2)
    assert answer[0].text == '{"seen": [1]}'
    response = ToolResponse(text="a")
    answer = answer_of(response)
    response.text = "b"
    assert answer[0].text == "a"


def test_plain_text_stays_plain_and_ends_are_kept() -> None:
    assert compact(answer_of({"a": 1})) == '{"a": 1}'
    for returned in [("t", 1.0), ToolResponse(text="t", image=["i"]), end_episode("over")]:
        answer = answer_of(returned)
        assert compact(answer) is answer
    response, reward, metrics = answer_of(end_episode({"won": True}, 1))
    assert (response.text, reward) == ('{"won": true}', 1.0) and ends_episode(metrics)
    assert normalize_function_tool_return(end_episode("over", 0.5)) == (ToolResponse(text="over"), 0.5, metrics)
    assert ends_episode({"end_episode": np.bool_(True)}) and ends_episode({"end_episode": 1})
    assert not ends_episode({"end_episode": np.bool_(False)}) and not ends_episode({"end_episode": 0})
    assert not ends_episode({"end_episode": "no"}) and not ends_episode(None)


@pytest.mark.parametrize("value", ["text", 5, 0.5, True, None])
def test_what_cannot_change_is_recorded_as_it_is(value: object) -> None:
    assert fixed(value) is value
