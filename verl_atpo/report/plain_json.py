"""Conversion of any value to plain JSON: text keys, finite numbers, bounded length and depth."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from verl_atpo.report.secrets import MASK, is_secret, without_passwords

LONGEST_TEXT = 4000
"""Characters kept of one text; a note gives the full number."""
MOST_ITEMS = 2000
"""Items of one value that are kept, nested ones included."""
DEEPEST = 12
LARGEST_ARRAY = 1 << 16
"""Bytes of an array of numpy or torch that is kept."""
_EXACT = 1 << 53
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def plain(value: Any) -> Any:
    """Convert ``value`` to JSON; parts that do not fit are replaced by a note in square brackets.

    Keys become text, NaN and infinities ``None``, arrays lists, bytes and unknown objects text, secrets a mask. A value
    made by this function is returned as it is.
    """
    return _Budget().plain(value, 0)


class _Budget:
    """Items that one value may still have."""

    def __init__(self) -> None:
        self.items = MOST_ITEMS

    def plain(self, value: Any, depth: int) -> Any:
        try:
            return self._plain(value, depth)
        except (Exception, SystemExit) as error:  # a value whose own methods raise: __str__, __iter__, tolist
            return f"[{type(value).__name__}: {type(error).__name__}]"

    def _plain(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if abs(value) <= _EXACT else f"[{value.bit_length()} bits]"
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if isinstance(value, str):
            return _cut(without_passwords(str(value)))
        if isinstance(value, bytes | bytearray | memoryview):
            return _bytes(bytes(value))
        if hasattr(value, "tolist"):
            large = int(getattr(value, "nbytes", 0)) > LARGEST_ARRAY
            return f"[array of shape {tuple(value.shape)}]" if large else self.plain(value.tolist(), depth)
        if isinstance(value, Mapping | Set | list | tuple):
            return f"[nested deeper than {DEEPEST}]" if depth >= DEEPEST else self._items(value, depth + 1)
        return _cut(_ADDRESS.sub("", str(value)))

    def _items(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            pairs: dict[str, Any] = {}
            for key, each in self._some(value.items()):
                name = _cut(str(key))
                shown = MASK if each is not None and is_secret(name) else self.plain(each, depth)
                pairs[name if name not in pairs else f"{name} ({type(key).__name__})"] = shown
            if len(pairs) < len(value):
                pairs[f"[{len(value) - len(pairs)} more]"] = None
            return pairs
        items = sorted(value, key=repr) if isinstance(value, Set) else value
        kept = [self.plain(each, depth) for each in self._some(items)]
        return kept if len(kept) == len(items) else [*kept, f"[{len(items) - len(kept)} more]"]

    def _some(self, items: Iterable[Any]) -> Iterable[Any]:
        for each in items:
            if self.items <= 0:
                return
            self.items -= 1
            yield each


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair
    if len(text) <= LONGEST_TEXT:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    note = f" [{len(text)} characters in all, sha256 {digest}]"
    return text[: LONGEST_TEXT - len(note)] + note


def _bytes(value: bytes) -> str:
    if len(value) <= LONGEST_TEXT:
        try:
            return _cut(value.decode())
        except UnicodeDecodeError:
            pass
    return f"[{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:12]}]"


def json_line(value: Mapping[str, Any]) -> bytes:
    """Write ``value`` as one line of JSON; numbers that JSON lacks are ``null``."""
    try:
        text = _dump(value)
    except (TypeError, ValueError, RecursionError):  # a key that is no text, NaN, a cycle
        text = _dump(_finite(value, DEEPEST))
    return text.encode("utf-8", "replace") + b"\n"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain)


def _finite(value: Any, levels: int) -> Any:
    """Replace what JSON lacks, without cutting texts or lists: they are the tree's own."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if levels and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _finite(each, levels - 1) for key, each in value.items()}
    if levels and isinstance(value, list | tuple):
        return [_finite(each, levels - 1) for each in value]
    return value if isinstance(value, str | int | float | None) else plain(value)
