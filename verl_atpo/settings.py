"""Settings: frozen pydantic dataclasses, read strictly from nested mappings; errors name setting and remedy.

A settings class is written as::

    @settings
    class Retry:
        tries: Positive = 3
        '''How often a call is made.'''

Unknown keys, values of another type and values out of range are refused. The text under a field is part of the error
message, so it describes the setting and the meaning of special values.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import typing
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

import pydantic
from typing_extensions import dataclass_transform

Count = Annotated[int, pydantic.Field(ge=0, strict=True)]
Positive = Annotated[int, pydantic.Field(ge=1, strict=True)]
Tries = Annotated[int, pydantic.Field(ge=0, le=100, strict=True)]
Amount = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False, strict=True)]
PositiveAmount = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, pydantic.Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
Pause = Annotated[float, pydantic.Field(ge=0, le=3600, allow_inf_nan=False, strict=True)]

_Class = TypeVar("_Class")
_LONGEST_VALUE = 200


class ConfigError(ValueError):
    """A setting that cannot work. The message names the setting, its value, the expected values and the remedy."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[_Class]) -> type[_Class]:
    """Turn ``cls`` into a frozen dataclass whose fields are checked for every instance."""
    config = pydantic.ConfigDict(extra="forbid", use_attribute_docstrings=True)
    return typing.cast(type[_Class], pydantic.dataclasses.dataclass(frozen=True, config=config)(cls))


def read(cls: type[_Class], values: Mapping[str, Any], path: str) -> _Class:
    """Make an instance of ``cls`` from ``values``, found at ``path`` in the config; missing keys take their defaults.

    Enums are given by value; ints are accepted as floats.

    Raises:
        ConfigError: unknown key, value of the wrong type or out of range; the first one found.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(cls, error.errors()[0], path)) from None


def plain(config: Any) -> dict[str, Any]:
    """Return nested dicts of plain values, the inverse of :func:`read`."""
    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def did_you_mean(wrong: object, right: Iterable[str], prefix: str = "") -> str:
    """Return a sentence that names the closest of ``right``; empty if none is close."""
    close = difflib.get_close_matches(str(wrong), list(right), n=1)
    return f" Did you mean {prefix}{close[0]}?" if close else ""


def not_a_setting(path: str, names: Iterable[str]) -> str:
    """Return the message for an unknown key at ``path``, where ``names`` are the known ones."""
    names, (where, _, name) = list(names), path.rpartition(".")
    return f"{path} is not a setting; valid ones are: {', '.join(names)}.{did_you_mean(name, names, f'{where}.')}"


def show(value: object) -> str:
    """Format a value for an error message, cut to a length that leaves room for the rest."""
    try:
        text = repr(value)
    except (Exception, SystemExit):  # of the value's own class
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def refusal(setting: str, value: object, why: str) -> str:
    """Return the error message for a setting that cannot work.

    Args:
        setting: its dotted name.
        value: its value; text is shown as on a command line, without quotes.
        why: reason and remedy; a full stop is added if there is none.
    """
    value = str(value) if isinstance(value, PurePath) else value
    text = isinstance(value, str) and len(repr(value)) < _LONGEST_VALUE and value
    shown = show(value)[1:-1] if text else show(value)
    return f"{setting}={shown} cannot work: {why}{'' if why.endswith(('?', '.')) else '.'}"


def refuse(setting: str, value: object, why: str, cause: BaseException | None = None) -> ConfigError:
    """Make the error for a setting that cannot work, to be raised; arguments as of :func:`refusal`."""
    error = ConfigError(refusal(setting, value, why))
    error.__cause__ = cause
    return error


def _explain(cls: Any, error: Any, path: str) -> str:
    """Turn an error of pydantic into a message with setting, value and remedy."""
    field, parent = None, cls
    for name in error["loc"]:
        path = f"{path}.{name}"
        parent = cls
        field = getattr(cls, "__pydantic_fields__", {}).get(name)
        cls = field.annotation if field else None
    kind, value = error["type"], error["input"]
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        return not_a_setting(path, parent.__pydantic_fields__)
    if kind == "value_error":  # of a class's own check, which names the field
        return f"{path}.{error['ctx']['error']}"
    about = f" It is: {field.description}" if field and field.description else ""
    hint = did_you_mean(value, [member.value for member in cls]) if _is_enum(cls) else ""
    return f"{path}={show(value)} cannot work: expected {_expected(cls, error)}.{hint}{about}"


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}


def _expected(annotation: Any, error: Any) -> str:
    options = typing.get_args(annotation) or (annotation,)
    null = " or null" if type(None) in options else ""
    context = error.get("ctx") or {}
    for bound, words in _BOUNDS.items():
        if bound in context:
            noun = "an integer" if isinstance(context[bound], int) else "a number"
            return f"{noun} {words} {context[bound]:g}{null}"
    if _is_enum(annotation):
        return f"one of {', '.join(str(member.value) for member in annotation)}"
    if hasattr(annotation, "__pydantic_fields__"):
        return f"a group of settings ({', '.join(annotation.__pydantic_fields__)})"
    if error["type"].endswith("_type"):
        names = {"int_type": "int", "float_type": "float", "string_type": "str", "bool_type": "bool"}
        found = type(error["input"]).__name__
        return f"{names.get(error['type'], error['type'])}{null}, got {found}"
    return error["msg"].removeprefix("Input should be ") + null
