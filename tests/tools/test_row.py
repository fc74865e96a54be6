"""Rows as they were written, before parquet filled the gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_atpo.tools.row import create_kwargs, plain_message, without_nulls

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(st.integers(0, 9) | st.text(max_size=2), lambda each: st.dictionaries(NAMES, each, min_size=1))


@given(st.lists(st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(0, 9), min_size=1)), min_size=1, max_size=4))
def test_a_trip_through_parquet_changes_nothing(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    if not any(rows):
        return
    file = tmp_path_factory.mktemp("rows") / "data.parquet"
    pd.DataFrame({"kwargs": rows}).to_parquet(file)
    assert [without_nulls(row) or {} for row in pd.read_parquet(file)["kwargs"]] == rows


def test_nulls_go_at_any_depth_and_lists_keep_theirs() -> None:
    assert without_nulls({"a": None, "b": {"c": None, "d": [{"e": None, "f": 1}, None]}}) == {
        "b": {"d": [{"f": 1}, None]}
    }
    assert without_nulls(None) is None


@pytest.mark.parametrize(
    ("tools_kwargs", "found"),
    [
        ({"put": None, "note": {"create_kwargs": {"size": 1}}}, {}),
        ({"put": {"create_kwargs": {"size": None, "name": "x"}}}, {"name": "x"}),
        ({"put": {"create_kwargs": None}}, {}),
        ({"put": {"other": 1}, "shelf": {"create_kwargs": {"size": 2}}}, {}),
        ({"shelf": {"create_kwargs": {"size": 2}}}, {"size": 2}),
        (None, {}),
        ({}, {}),
    ],
)
def test_arguments_of_a_tool(tools_kwargs: dict | None, found: dict) -> None:
    assert create_kwargs(tools_kwargs, ["put", "shelf"]) == found


def test_calls_in_a_prompt_lose_the_nulls_of_other_rows() -> None:
    call = {"id": None, "type": "function", "function": {"name": "find", "arguments": {"city": "Oslo", "url": None}}}
    message = {"role": "assistant", "content": None, "name": None, "tool_calls": np.array([call], dtype=object)}
    assert plain_message(message) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"city": "Oslo"}}}],
    }
