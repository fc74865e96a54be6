"""Neutralisation of outside text, so that it can neither end a turn nor imitate a trajectory's structure.

Only the brackets of what looks like a tag or a control token are replaced, by single angle quotation marks (U+2039 and
U+203A), so that the text stays readable. Those have no compatibility mapping to ``<`` and ``>``: a tokenizer that
normalises its input (NFKC) does not turn them back. The full-width and small forms of the brackets do have one, and
are therefore read as brackets here.

Text from the environment (passages, the output of code) goes through :func:`neutralise` in its tool, whatever loop
calls it; the guard of the rollout sends every tool's text through :class:`ControlTokens` as well, which knows the
model's own tokens. An agent loop that writes observations itself calls :func:`harmless`.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable
from typing import Any

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
    """Replace the brackets of tags and control tokens in ``text``; all else is unchanged.

    Structure tags are matched in any case, opening or closing, with blanks and attributes, and also when the closing
    bracket is missing; of ``<|...|>`` each half is matched on its own. The length does not change, and applying the
    function again changes nothing.
    """
    text = _STRUCTURE.sub(lambda tag: LEFT + tag[1] + (RIGHT if tag[2] else ""), text)
    text = _TOKEN.sub(rf"{LEFT}\1{RIGHT}", text)
    return _BAR_CLOSE.sub(rf"\1{RIGHT}", _BAR_OPEN.sub(LEFT, text))


def harmless(text: str, tokenizer: Any) -> str:
    """Remove the model's control tokens from ``text``, for observations that an agent loop writes itself.

    Args:
        text: text of a page, a program or an environment.
        tokenizer: the model's.
    """
    found = _KNOWN.get(tokenizer)
    if found is None:
        found = _KNOWN[tokenizer] = ControlTokens(tokenizer)
    return found.broken(text)


class ControlTokens:
    """The tokens of a model that text from outside must not become.

    They are the added vocabulary: special tokens, and those such as ``<tool_call>`` and ``<|eom_id|>`` that are not
    flagged special but give a conversation its structure. Tokens of white space alone are text.

    Args:
        tokenizer: the model's; one without an added vocabulary is asked for its special tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        vocabulary = _added_vocabulary(tokenizer)
        names = {*getattr(tokenizer, "all_special_tokens", ()), *vocabulary}
        self.tokens = tuple(sorted((name for name in names if name.strip()), key=len, reverse=True))
        self._ids = frozenset(vocabulary[name] for name in self.tokens if name in vocabulary)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._rewrites = getattr(backend, "normalizer", None) is not None

    def broken(self, text: str) -> str:
        """Remove live control tokens from ``text``; halves of surrogate pairs become ?."""
        text = without_tokens(text.encode(errors="replace").decode(), self.tokens)
        return self._by_ids(text) if self._rewrites and self._ids else text

    def _by_ids(self, text: str) -> str:
        """Break text that the tokenizer still reads as a control token, because it rewrites text first."""
        for gap in ("\u200b", " ", ""):
            found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
            hits = [span for token, span in spans if token in self._ids and span[1] > span[0]]
            if not hits:
                break
            for begin, end in reversed(hits):
                inside = text[begin:end]
                keep = gap and len(inside.strip()) > 1
                first = len(inside) - len(inside.lstrip()) + 1
                text = text[:begin] + (inside[:first] + gap + inside[first:] if keep else "") + text[end:]
        return text


_KNOWN: weakref.WeakKeyDictionary[Any, ControlTokens] = weakref.WeakKeyDictionary()


def _added_vocabulary(tokenizer: Any) -> dict[str, int]:
    try:
        return dict(tokenizer.get_added_vocab())
    except (AttributeError, NotImplementedError):
        return {}


def without_tokens(text: str, tokens: Iterable[str]) -> str:
    """Change ``text`` so that none of ``tokens`` is left in it.

    One in angle brackets loses them as in :func:`neutralise`; any other, such as ``[SEP]``, gets a zero-width space
    after its first character; one of a single character becomes U+FFFD.
    """
    for token in sorted(set(tokens), key=len, reverse=True):
        if token in text:
            text = text.replace(token, _broken(token))
    return text


def _broken(token: str) -> str:
    if len(token) == 1:
        return "\ufffd"
    harmless = neutralise(token)
    return token[:1] + "\u200b" + token[1:] if harmless == token else harmless
