"""Reading nested mappings into frozen dataclasses, strictly: unknown keys and wrong types are errors with a remedy."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import typing
from collections.abc import Mapping
from typing import Any, TypeVar


class ConfigError(ValueError):
    """A setting that cannot work. The message says: setting, value found, what is expected, remedy."""


def require(ok: bool, setting: str, value: object, expected: str) -> None:
    """Raise :class:`ConfigError` unless ``ok``."""
    if not ok:
        raise ConfigError(f"{setting}={value!r} cannot work: expected {expected}.")


_Config = TypeVar("_Config")


def read(cls: type[_Config], settings: Mapping[str, Any], path: str) -> _Config:
    """Make a ``cls`` of ``settings``, which stand at ``path`` in the whole config; keys left out take their defaults.

    Raises:
        ConfigError: unknown key, value of the wrong type or out of range.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{path}={settings!r} cannot work: expected a group of settings ({', '.join(_names(cls))}).")
    types = typing.get_type_hints(cls)
    unknown = [key for key in settings if key not in types]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), types, n=1)
        hint = f" Did you mean {path}.{close[0]}?" if close else ""
        raise ConfigError(f"{path}.{unknown[0]} is not a setting; valid ones are: {', '.join(types)}.{hint}")
    return cls(**{key: _convert(value, types[key], f"{path}.{key}") for key, value in settings.items()})


def _names(cls: type) -> list[str]:
    return list(typing.get_type_hints(cls))


def _convert(value: Any, expected: Any, path: str) -> Any:
    """Check ``value`` against the annotated type; enums are given by value, ints are good floats."""
    if dataclasses.is_dataclass(expected):
        return read(typing.cast(type, expected), value, path)
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        try:
            return expected(value)
        except ValueError:
            choices = ", ".join(str(member.value) for member in expected)
            raise ConfigError(f"{path}={value!r} cannot work: expected one of {choices}.") from None
    allowed = typing.get_args(expected) or (expected,)
    if float in allowed and int not in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ConfigError(f"{path}={value!r} cannot work: expected {names}, got {type(value).__name__}.")
    return value


def plain(value: Any) -> Any:
    """Nested dicts with enums as their values."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.value if isinstance(value, enum.Enum) else value
