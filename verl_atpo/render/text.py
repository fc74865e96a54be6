"""Untrusted text made visible, free of the chat template, and short; numbers as text.

Nothing here escapes for HTML: that is the job of what renders (Vue's interpolation, ElementTree, ``markup.py``).
Here every character becomes one that can be seen and has no effect on its surroundings.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable

_NAMES = {
    "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ", "\u200e": "LRM", "\u200f": "RLM", "\u061c": "ALM",
    "\u2060": "WJ", "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO",
    "\u2066": "LRI", "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI", "\ufeff": "BOM", "\u2028": "LS", "\u2029": "PS",
}  # fmt: skip
HEADLINE_READS = 4000
"""Characters of a turn that its headline is made from."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff" + "".join(_NAMES) + "]")
_ROLE = re.compile(r"\s*(system|user|assistant|tool|model|function)[ \t]*\n")
LIKELY_SPECIAL = r"<\|[^|<>\s]{1,40}\|>"
_CALL = re.compile(r'\{\s*"name"\s*:.*\}', re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_TAG_CALL = re.compile(r"<(search|python|code|tool)>(.*?)(?:</\1>|$)", re.DOTALL)
_RESPONSE = re.compile(r"</?(?:tool_response|information|think|tool_call)>")


def visible(text: str) -> str:
    """Show control characters as pictures and invisible ones by name: ESC is ␛, a right-to-left mark ⟨RLM⟩.

    Every other character stays, tabs and newlines included, so the text can be copied.
    """
    return _CONTROL.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in _NAMES:
        return f"⟨{_NAMES[character]}⟩"
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def without_template(text: str, template: Iterable[str]) -> str:
    """Remove the chat template from ``text``: special tokens, and the role's name that follows one.

    Args:
        text: decoded tokens.
        template: the tokenizer's special tokens; those of the form ``<|...|>`` always count as such.
    """
    special = sorted((token for token in template if token), key=len, reverse=True)
    parts = re.split("|".join([*map(re.escape, special), LIKELY_SPECIAL]), text)
    kept = [parts[0], *(_ROLE.sub("", part, count=1) if _ROLE.match(part) else part for part in parts[1:])]
    return "\n".join(part.strip("\n") for part in kept if part.strip())


def headline(text: str) -> str:
    """Say in one line what a turn does: its tool calls, its answer, or its text.

    Args:
        text: the turn, without the chat template.
    """
    text = text[:HEADLINE_READS]
    calls = [call for found in _CALL.findall(text) for call in _calls(found)]
    if calls:
        return "  ".join(calls)
    if tag := _TAG_CALL.search(text):
        return f"{tag[1]}({_one_line(tag[2])})"
    if answer := _ANSWER.search(text):
        return f"answer: {_one_line(answer[1])}"
    return _one_line(_RESPONSE.sub(" ", text))


def _calls(text: str) -> list[str]:
    """Tool calls written as JSON, one after the other with anything in between."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while (at := text.find("{", at)) >= 0:
        try:
            call, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        if isinstance(call, dict) and "name" in call:
            arguments = call.get("arguments")
            values = arguments.values() if isinstance(arguments, dict) else [arguments]
            found.append(f"{_one_line(str(call['name']))}({_one_line(', '.join(map(str, values)))})")
    return found


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def shorten(text: str, width: int) -> str:
    """Cut ``text`` to ``width`` columns (wide characters count two), with … where something is left out."""
    used = kept = 0
    for position, character in enumerate(text):
        used += columns(character)
        if used < width:
            kept = position + 1
        if used > width:
            return text[:kept].rstrip() + "…"
    return text


def columns(character: str) -> int:
    """Count the columns of a character: 2 for wide ones, 0 for combining ones."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrap(text: str, width: int, lines: int) -> list[str]:
    """Break ``text`` into at most ``lines`` lines of ``width`` columns, at spaces where there are some."""
    wrapped: list[str] = []
    rest = text.strip()
    while rest and len(wrapped) < lines - 1:
        line = shorten(rest, width)
        if line == rest:
            break
        cut = len(line) - 1
        space = rest.rfind(" ", cut // 2, cut + 1)
        cut = space if space > 0 else cut
        wrapped.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*wrapped, shorten(rest, width)] if rest else wrapped


def signed(value: float, digits: int = 2) -> str:
    """Write a number with its sign; one that rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text


def decimal(value: float, digits: int = 2) -> str:
    """Write a number; one that rounds to zero has no sign."""
    return f"{value:.{digits}f}" if float(f"{value:.{digits}f}") else f"{0:.{digits}f}"
