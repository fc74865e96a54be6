"""Values of any shape become JSON, once and for all, and a task keeps its name on the way through a dump."""

from __future__ import annotations

import datetime
import enum
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verl_atpo.report.dump import TreeDump
from verl_atpo.report.plain_json import LONGEST_TEXT, json_line, plain
from verl_atpo.report.record import Record, task_key


class Level(enum.IntEnum):
    HIGH = 3


class Broken:
    """Nothing of it can be asked."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenArray:
    def tolist(self) -> list[int]:
        raise MemoryError


CYCLE: list[Any] = [1]
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({("a", 1): 2}, {"('a', 1)": 2}),
        ({1: "number", "1": "text"}, {"1": "number", "1 (str)": "text"}),
        (float("nan"), None),
        ([math.inf, -math.inf, 0.5], [None, None, 0.5]),
        (np.float64("nan"), None),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.int64(7), 7),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        (np.zeros((1000, 1000)), "[array of shape (1000, 1000)]"),
        (10**400, "[1329 bits]"),
        (True, True),
        (Level.HIGH, 3),
        (b"text", "text"),
        (b"\xff\x00", "[2 bytes, sha256 ea5dbf9596d1]"),
        ({3, 1}, [1, 3]),
        (Decimal("0.5"), "0.5"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        ("half \ud800", "half ?"),
        (Broken(), "[Broken: RuntimeError]"),
        ({Broken(): 1}, "[dict: RuntimeError]"),
        (BrokenArray(), "[BrokenArray: MemoryError]"),
    ],
)
def test_a_value_of_any_kind_becomes_json(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    assert json.loads(json_line({"value": value}))["value"] is not ...


def test_long_values_are_cut_with_a_note() -> None:
    archive = "UEsDB" * 200_000
    short = plain({"archive": archive})["archive"]
    assert len(short) == LONGEST_TEXT and short.startswith("UEsDB") and "[1000000 characters in all, sha256" in short
    assert plain(bytes(range(256)) * 4000).startswith("[1024000 bytes, sha256 ")
    many = plain(list(range(5000)))
    assert many[:2000] == list(range(2000)) and many[2000:] == ["[3000 more]"]
    assert len(json.dumps(plain(CYCLE))) < 200 and "nested deeper" in json.dumps(plain(CYCLE))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.tuples(st.integers()), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_what_is_plain_stays_as_it_is(value: Any) -> None:
    made = plain(value)
    assert plain(made) == made == json.loads(json.dumps(made, allow_nan=False))


@given(JSON, JSON)
def test_a_task_keeps_its_name_through_a_dump(extra: Any, answer: Any) -> None:
    record = {"prompt": "p", "extra_info": {"tools_kwargs": extra}, "ground_truth": answer}
    again = {"prompt": "p", "extra_info": plain(record["extra_info"]), "ground_truth": plain(answer)}
    assert task_key(record) == task_key(json.loads(json_line(again)))


def test_tasks_of_one_prompt_text_are_told_apart() -> None:
    def key(**fields: Any) -> str:
        return task_key({"prompt": "Find the file.", **fields})

    assert key(extra_info={"index": 1}) != key(extra_info={"index": 2})
    assert key(extra_info={"index": 1, "split": "test"}) != key(extra_info={"index": 1, "split": "train"})
    assert key(extra_info={"index": 1, "seen": 3}) == key(extra_info={"index": np.int64(1), "seen": 4})
    games = [{"tools_kwargs": {"open": {"seed": seed}}} for seed in (1, 2)]
    assert key(extra_info=games[0]) != key(extra_info=games[1])
    assert key(ground_truth="a") != key(ground_truth="b")
    assert key(extra_info=None) == key() == key(extra_info={})


async def test_extras_of_any_shape_are_dumped(tmp_path: Path) -> None:
    dump = TreeDump(str(tmp_path))
    odd = {("x", 2): float("nan"), "file": "A" * 2_000_000, "object": Broken(), "cycle": CYCLE}
    for _ in range(3):
        record = Record(uid="u", global_step=1, nodes=[], extra_info=odd, ground_truth=odd, root_value=float("inf"))
        record["trajectories"] = [{"number": 0, "reward_extra": odd}]
        assert await dump.write(lambda record=record: record) is not None
    assert dump.skipped == 0
    (file,) = tmp_path.iterdir()
    for line in file.read_text().splitlines():
        tree = json.loads(line, parse_constant=pytest.fail)
        assert len(line) < 30_000 and tree["root_value"] is None
        assert tree["extra_info"] == tree["ground_truth"] == tree["trajectories"][0]["reward_extra"]
        assert tree["extra_info"]["('x', 2)"] is None
