"""Typed access to the fields of a JSON request, with refusals that name field, value and remedy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from verl_atpo.gateway.errors import ApiError, unsupported

logger = logging.getLogger(__name__)

_NOTED: set[str] = set()


def read_object(body: Any) -> dict[str, Any]:
    """Read a request's body as an object without its nulls.

    Raises:
        ApiError: it is something else.
    """
    if not isinstance(body, dict):
        raise ApiError(400, f"The request's body is a JSON {type(body).__name__}: expected an object.")
    return {name: value for name, value in body.items() if value is not None}


def positive(body: Mapping[str, Any], name: str) -> int | None:
    """Read a count of at least 1, or None where it is missing."""
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ApiError(400, f"{name}={value!r}: expected an integer of at least 1.", param=name)
    return value


def flag(body: Mapping[str, Any], name: str, default: bool) -> bool:
    """Read a truth value."""
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise ApiError(400, f"{name}={value!r}: expected true or false.", param=name)
    return value


def texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Read a text or a list of texts that are not empty."""
    value = body.get(name) or ()
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else (None,)
    if not all(isinstance(text, str) and text for text in found):
        raise ApiError(400, f"{name}={value!r}: expected a text or a list of texts.", param=name)
    return found


def must_be(body: Mapping[str, Any], name: str, *good: Any) -> None:
    """Refuse a parameter that has another value than one of ``good``."""
    if name in body and not any(body[name] == value and type(body[name]) is type(value) for value in good):
        raise unsupported(name, body[name], " or ".join(map(repr, good)))


def refuse_unknown(body: Mapping[str, Any], *known: str) -> None:
    """Refuse fields that are none of ``known``."""
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise ApiError(
            400,
            f"Unknown parameter: {unknown[0]!r}. This endpoint knows {', '.join(sorted(known))}.",
            param=unknown[0],
            code="unknown_parameter",
        )


def note_ignored(body: Mapping[str, Any], *names: str) -> None:
    """Log, once per process and parameter, that the recipe's sampling applies instead of the harness's."""
    for name in names:
        if name in body and name not in _NOTED:
            _NOTED.add(name)
            logger.info(
                "The agent asks for %s=%r; the recipe's own sampling applies, so that what is trained is what was "
                "sampled.",
                name,
                body[name],
            )
