"""Replacement of a function of verl, Ray, Hydra or torch by a wrapper, at most once in a process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def wrap_once(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace a function by its wrapper.

    The name of ``wrap`` says which wrapper it is: called again for one that is in place, the new one replaces it and
    wraps the original. Where somebody else has wrapped it in turn, it stays as it is.

    Args:
        owner: module or class that holds the function.
        name: of the function in it.
        wrap: makes the wrapper from the original; ``functools.wraps`` is applied to the result.

    Returns:
        Function that puts the original back.
    """
    current = getattr(owner, name)
    mark = f"_wrapped_by {wrap.__module__}.{wrap.__qualname__}"
    original = getattr(current, mark, current)
    if original is not current and current.__wrapped__ is not original:
        return lambda: None  # functools.wraps copied the mark to a wrapper of our wrapper
    wrapper = functools.wraps(original)(wrap(original))
    setattr(wrapper, mark, original)
    setattr(owner, name, wrapper)
    return lambda: setattr(owner, name, original)
