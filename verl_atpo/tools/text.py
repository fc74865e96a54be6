"""Makes text from outside harmless: it can neither end a turn nor pose as the structure of a trajectory.

Only the brackets of what looks like a tag or a special token are replaced, by single angle quotation marks (U+2039 and
U+203A), so that the text stays readable. Those have no compatibility mapping to ``<`` and ``>``: a tokenizer that
normalises its input (NFKC) does not turn them back. The full-width and small forms of the brackets do have one, and
are therefore read as brackets here.

Text that the world wrote (passages, the output of code) goes through :func:`neutralise` in its tool, whatever loop
calls it; the guard of the tree rollout sends every tool's text through :func:`without_tokens` besides, which knows the
special tokens of the model at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

STRUCTURE_TAGS = ("think", "search", "result", "answer", "information", "tool_call", "tool_response", "tools")
"""Tags that tag-style prompts, chat templates and tool parsers give a meaning to."""

TOKEN_TAGS = ("s", "bos", "eos", "pad", "unk", "start_of_turn", "end_of_turn")
"""Special tokens of common tokenizers that are written like a tag."""

LEFT, RIGHT = "\u2039", "\u203a"

_OPEN, _CLOSE = "<\uff1c\ufe64", ">\uff1e\ufe65"
_SLASH = r"\s*(?:[/\uff0f]\s*)?"  # read in one way only: time is linear in a run of blanks
_STRUCTURE = re.compile(
    rf"[{_OPEN}]({_SLASH}(?:{'|'.join(STRUCTURE_TAGS)})\b[^{_OPEN}{_CLOSE}]*)([{_CLOSE}]?)", re.IGNORECASE
)
_TOKEN = re.compile(rf"[{_OPEN}]({_SLASH}(?:{'|'.join(TOKEN_TAGS)})\s*)[{_CLOSE}]", re.IGNORECASE)
_BAR_OPEN = re.compile(rf"[{_OPEN}](?=[|\uff5c])")
_BAR_CLOSE = re.compile(rf"([|\uff5c])[{_CLOSE}]")


def neutralise(text: str) -> str:
    """``text`` with the brackets of tags and special tokens replaced; all else is left as it is.

    Structure tags are matched in any case, opening or closing, with blanks and attributes, and also when the closing
    bracket is missing; of ``<|...|>`` each half is matched on its own. The length does not change, and applying the
    function again changes nothing.
    """
    text = _STRUCTURE.sub(lambda tag: LEFT + tag[1] + (RIGHT if tag[2] else ""), text)
    text = _TOKEN.sub(rf"{LEFT}\1{RIGHT}", text)
    return _BAR_CLOSE.sub(rf"\1{RIGHT}", _BAR_OPEN.sub(LEFT, text))


def without_tokens(text: str, tokens: Iterable[str]) -> str:
    """``text`` in which none of ``tokens``, a tokenizer's special ones, is left to be read as such.

    One in angle brackets loses them as in :func:`neutralise`; any other, such as ``[SEP]``, gets a zero-width space
    behind its first character; one of a single character becomes U+FFFD.
    """
    for token in sorted(set(tokens), key=len, reverse=True):
        text = text.replace(token, _broken(token))
    return text


def _broken(token: str) -> str:
    if len(token) == 1:
        return "\ufffd"
    harmless = neutralise(token)
    return token[:1] + "\u200b" + token[1:] if harmless == token else harmless
