"""Repair of text for UTF-8 and tokenizers, which reject the halves of surrogate pairs that JSON can spell."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")


def valid_unicode(text: str) -> str:
    """Replace each half of a surrogate pair in ``text`` by U+FFFD."""
    return _HALF.sub("\ufffd", text)
