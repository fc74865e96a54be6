"""Makes text from outside harmless: it can neither end a turn nor pose as the structure of a trajectory.

Only the brackets of what looks like a tag or a special token are replaced, by single angle quotation marks (U+2039 and
U+203A), so that the text stays readable. Those have no compatibility mapping to ``<`` and ``>``: a tokenizer that
normalises its input (NFKC) does not turn them back. The full-width and small forms of the brackets do have one, and
are therefore read as brackets here.
"""

from __future__ import annotations

import re

STRUCTURE_TAGS = ("think", "search", "result", "answer", "information", "tool_call", "tool_response", "tools")
"""Tags that tag-style prompts, chat templates and tool parsers give a meaning to."""

TOKEN_TAGS = ("s", "bos", "eos", "pad", "unk", "start_of_turn", "end_of_turn")
"""Special tokens of common tokenizers that are written like a tag."""

LEFT, RIGHT = "\u2039", "\u203a"

_OPEN, _CLOSE = "<\uff1c\ufe64", ">\uff1e\ufe65"
_SLASH = r"\s*[/\uff0f]?\s*"
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
