"""Replacement of a function of verl, Ray, Hydra or torch by a wrapper, at most once in a process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def wrap_once(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace a function by its wrapper.

    The name of ``wrap`` says which wrapper it is. Called again with the same ``wrap`` nothing changes; another one of
    the name replaces it and wraps the original. Where somebody else has wrapped it in turn, it stays as it is.

    Args:
        owner: module or class that holds the function.
        name: name of the function in it.
        wrap: makes the wrapper from the original; ``functools.wraps`` is applied to the result.

    Returns:
        Function that puts the original back.
    """
    current = getattr(owner, name)
    mark = f"_wrapped_by {wrap.__module__}.{wrap.__qualname__}"
    original, made_by = getattr(current, mark, (current, None))
    if made_by is not None and current.__wrapped__ is not original:
        return lambda: None  # functools.wraps copied the mark to a wrapper of our wrapper
    if made_by is not wrap:
        wrapper = functools.wraps(original)(wrap(original))
        setattr(wrapper, mark, (original, wrap))
        setattr(owner, name, wrapper)
    return lambda: setattr(owner, name, original)
