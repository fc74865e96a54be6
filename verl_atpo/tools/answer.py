"""Normalisation of a tool's return value, done where the call is made.

A tool may return what verl lets a function tool return, and any other value. It becomes text at once, so that no object
that changes later (a live state, a list that the tool keeps) is recorded, replayed or shown to the model.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import datetime
import enum
import functools
import inspect
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel
from verl.tools.schemas import ToolResponse

END_EPISODE = "end_episode"
"""Key of the metrics that a call returns: the episode is over."""
Answer = tuple[ToolResponse, float, dict[str, Any]]
"""verl's triple: what the model reads, the reward of the call, metrics."""

DEEPEST = 50
"""Levels of containers that are written."""
MOST_ITEMS = 100_000
"""Items that are taken from an iterator which a tool returns."""
_LARGE = 10**1000
"""Whole numbers up to this are recorded as they are; Python refuses to write far larger ones."""

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,16}\b")


def end_episode(text: Any, reward: float = 0.0) -> tuple[Any, float, dict[str, Any]]:
    """Return this from a tool to end the trajectory: no further turn is sampled, and the call's reward counts.

    Args:
        text: last observation, which a reward function reads.
        reward: reward of the call.
    """
    return text, reward, {END_EPISODE: True}


def ends_episode(metrics: Any) -> bool:
    """Return whether the metrics of a call say that the episode is over."""
    ends = metrics.get(END_EPISODE) if isinstance(metrics, Mapping) else None
    return isinstance(ends, bool | np.bool_ | int) and bool(ends)


def answer_of(returned: Any) -> Answer:
    """Convert a tool's return value to verl's form.

    A tuple is ``(text,)``, ``(text, reward)`` or ``(text, reward, metrics)`` where the second is a number or None; one
    whose second is text or a mapping is a value like any other, and read as JSON. Metrics that are no mapping are kept
    under the key ``metrics``.

    Raises:
        TypeError: a tuple that is empty or longer than three, which no caller could take apart.
    """
    if not isinstance(returned, tuple) or hasattr(returned, "_fields"):
        return _response(returned), 0.0, {}
    if not 1 <= len(returned) <= 3:
        raise TypeError(
            f"the tool returned a tuple of {len(returned)}: expected text, (text, reward) or (text, reward, metrics)"
        )
    text, reward, metrics = (*returned, None, None)[:3]
    if not _is_reward(reward):
        return ToolResponse(text=_json(list(returned))), 0.0, {}
    given = {} if metrics is None else dict(metrics) if isinstance(metrics, Mapping) else {"metrics": metrics}
    return _response(text), 0.0 if reward is None else float(reward), given


def fixed(returned: Any) -> Any:
    """Convert a tool's return value to one that never changes later, for records and loops that call functions.

    Numbers, None and text are unchanged, any other answer that is only text becomes that text, the rest verl's triple.
    """
    if returned is None or type(returned) in (bool, float, str):
        return returned
    if type(returned) is int and abs(returned) < _LARGE:
        return returned
    return compact(answer_of(returned))


def answered(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a plain function of a tool, and make its answer text where the function ran.

    An iterator runs code of the tool, and so may any conversion to text. What has to be awaited is returned as it is,
    for :func:`settled`.
    """
    returned = function(*args, **kwargs)
    waits = isinstance(returned, concurrent.futures.Future | AsyncIterator) or inspect.isawaitable(returned)
    return returned if waits else fixed(returned)


async def settled(returned: Any) -> Any:
    """Await what a function returned: a coroutine (of an ``async`` function that is wrapped), a future, an iterator."""
    if isinstance(returned, concurrent.futures.Future):
        returned = asyncio.wrap_future(returned)
    if inspect.isawaitable(returned):
        returned = await returned
    if isinstance(returned, AsyncIterator):
        items: list[Any] = []
        async for item in returned:
            items.append(item)
            _check_length(items)
        return items
    return returned


def compact(answer: Answer) -> str | Answer:
    """Return the text of an answer that is only text, else the answer."""
    response, reward, metrics = answer
    bare = not reward and not metrics and not response.image and not response.video
    return response.text if bare and response.text is not None else answer


def as_text(value: Any) -> str:
    """Write a value as text for the model: text as it is, mappings and records as JSON, the rest as Python shows it.

    Numbers, dates and texts of other libraries are taken for what they are, sets are put in order and addresses of
    objects left out, so that equal values give equal text in every process.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, Mapping) or _is_record(value):
        return _json(value)
    if isinstance(value, list | set | frozenset | Iterator | np.ndarray | collections.deque | collections.UserList):
        return str(plain(value))
    return _ADDRESS.sub("at 0x...", str(plain(value)))


def plain(value: Any, around: tuple[int, ...] = ()) -> Any:
    """Convert ``value`` to JSON's own types; other types become their number, list or text.

    A value inside itself, and one deeper than :data:`DEEPEST` levels, becomes ``...``.

    Args:
        value: value of any type.
        around: identities of the values that it is in.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if len(around) > DEEPEST or id(value) in around:
        return "..."
    inner = functools.partial(plain, around=(*around, id(value)))
    if isinstance(value, enum.Enum):
        return inner(value.value)
    if isinstance(value, np.generic | np.ndarray) or _is_tensor(value):
        return inner(value.tolist())
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return inner(dict(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return inner(value._asdict())
    if isinstance(value, Mapping):
        return {_key(key): inner(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(inner, value), key=repr)
    if isinstance(value, Iterator):
        items = list(itertools.islice(value, MOST_ITEMS + 1))
        _check_length(items)
        return inner(items)
    if isinstance(value, list | tuple | collections.deque | collections.UserList):
        return [inner(each) for each in value]
    return _ADDRESS.sub("at 0x...", str(value))


def _response(value: Any) -> ToolResponse:
    if isinstance(value, ToolResponse):
        return value.model_copy()
    if _is_picture(value) or (isinstance(value, list) and value and all(map(_is_picture, value))):
        return ToolResponse(image=value if isinstance(value, list) else [value])
    return ToolResponse(text=as_text(value))


def _check_length(items: list[Any]) -> None:
    if len(items) > MOST_ITEMS:
        raise ValueError(f"the tool returned an iterator of more than {MOST_ITEMS} items")


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)


def _key(key: Any) -> Any:
    found = plain(key)
    return found if found is None or isinstance(found, bool | int | float | str) else str(found)


def _is_record(value: Any) -> bool:
    record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return record or isinstance(value, BaseModel) or (isinstance(value, tuple) and hasattr(value, "_asdict"))


def _is_picture(value: Any) -> bool:
    return any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)


def _is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of any library; one of a single number reads as that number."""
    return hasattr(type(value), "__dlpack__") and hasattr(type(value), "tolist")


def _is_reward(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
