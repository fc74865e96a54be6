"""Values of a data row for one run, without the nulls that parquet adds, in containers of its own.

A parquet column holds one kind of struct: a key that any row has is there in all rows, null where it was not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def without_nulls(value: Any) -> Any:
    """Remove the entries of mappings, at any depth, that are None; arrays become lists.

    A tool whose argument may be None gives it that default.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def own_containers(value: Any) -> Any:
    """Copy the mappings and lists of a row, at any depth, so that a run may change them; all else is shared."""
    if type(value) is dict:
        return {key: own_containers(each) for key, each in value.items()}
    if type(value) is list:
        return [own_containers(each) for each in value]
    if isinstance(value, np.ndarray) and value.dtype == object:
        own = value.copy()
        for at, each in np.ndenumerate(value):
            own[at] = own_containers(each)
        return own
    return value


def plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a message to plain containers, without the nulls that parquet files fill in."""
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        parts = [dict(part) if isinstance(part, Mapping) else part for part in content]
        content = [
            {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else part
            for part in parts
        ]
    rest = without_nulls({key: value for key, value in message.items() if key != "content"})
    return {**rest, "content": content}


def create_kwargs(tools_kwargs: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of ``open`` or ``create`` in a row's ``tools_kwargs``.

    Args:
        tools_kwargs: ``tools_kwargs`` of the data row, or None.
        names: under which the tool may stand there, the first that does counts.
    """
    found = without_nulls(tools_kwargs) or {}
    for name in names:
        if isinstance(entry := found.get(name), Mapping):
            given = entry.get("create_kwargs")
            return dict(given) if isinstance(given, Mapping) else {}
    return {}
