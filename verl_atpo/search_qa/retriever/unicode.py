"""Text that can travel: JSON can spell halves of surrogate pairs, which neither UTF-8 nor a tokenizer takes."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")


def valid_unicode(text: str) -> str:
    """``text`` with U+FFFD for each half of a surrogate pair."""
    return _HALF.sub("\ufffd", text)
