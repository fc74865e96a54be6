r"""The form of a response, and the answer in it: ``<answer> ... \boxed{ANSWER} ... </answer>`` at its end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verl_atpo.search_qa.rewards.observations import Style, call_tag, split_turns

_TAG = re.compile(r"<(/?)(think|search|answer|result|tool_call|tool_response)>")
_OBSERVATION_TAGS = frozenset({"result", "tool_response"})
_BRACES = re.compile(r"\\\\(?=\})|\\[{}]|\\boxed\s*\{|[{}]")
_TEXT_MACRO = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal)?|math(?:rm|bf|it|sf|tt|normal)|operatorname|boldsymbol|bm|emph|mbox|hbox"
    r"|underline|fbox|textcolor\s*\{[^{}]*\})\s*\{([^{}]*)\}"
)
_SWITCH = re.compile(
    r"\\(?:(?:bf|it|rm|sf|tt|sc|em)(?:series|family|shape)?|displaystyle|textstyle|normalsize|small|[lL]arge|LARGE|huge"
    r"|math(?:rm|bf|it|sf|tt)|color\s*\{[^{}]*\})(?![a-zA-Z])"
)
"""Macros that change the font or colour of what follows."""
_SPACE = re.compile(r"\\[ ,;:>]|~|\\q?quad(?![a-z])|\\\\")
_ESCAPED = re.compile(r"\\([%&#_$])")
_DEEPEST = 20
"""Levels of nested macros that are replaced; deeper ones are left as they are."""


def format_error(response: str, style: Style | str = Style.ANY) -> str | None:
    r"""Return the reason why a response, observations included, is malformed; None if it is well-formed.

    A well-formed response ends with its one ``<answer>`` element, which holds a balanced, non-empty ``\boxed{}``. All
    its elements (``<think>``, ``<answer>`` and the calls) are closed, not nested, and of this style. Style ``tags``
    requires a ``<think>`` as well; the others accept ``</think>`` without its opening tag, which the chat templates of
    some models write into the prompt.

    Args:
        response: the decoded response of the whole trajectory.
        style: see ``Style``.
    """
    return turns_error(split_turns(response, Style(style)), Style(style))


def turns_error(turns: Sequence[str], style: Style) -> str | None:
    """Return ``format_error`` of a response without its observations.

    Args:
        turns: the policy's text, one per turn, at least one.
        style: see ``Style``.
    """
    text = "\n".join(turns)
    if style is Style.TAGS and "<think>" not in text:
        return "there is no <think> element"
    return _structure_error(text, style) or _answer_error(text, turns[-1])


def _structure_error(text: str, style: Style) -> str | None:
    call = call_tag(text, style)
    opened = None
    for tag in _TAG.finditer(text):
        closing, name = tag.groups()
        if name in _OBSERVATION_TAGS:
            return f"{tag.group()} was written by the policy, not by a tool"
        if name not in ("think", "answer", call):
            return f"{tag.group()} next to calls in <{call}>: a response keeps to one style of calls"
        if not closing:
            if opened:
                return f"{tag.group()} inside <{opened}>"
            opened = name
        elif name == opened:
            opened = None
        elif opened:
            return f"{tag.group()} inside <{opened}>"
        elif name != "think" or style is Style.TAGS:
            return f"{tag.group()} without <{name}>"
    return f"<{opened}> is never closed" if opened else None


def _answer_error(text: str, last_turn: str) -> str | None:
    answers = text.count("<answer>")
    if answers != 1:
        return f"there are {answers} <answer> elements, not one"
    if not last_turn.strip():
        return "the response ends with an observation"
    if not last_turn.rstrip().endswith("</answer>"):
        return "there is text after </answer>"
    return None if extract_answer(text) else r"there is no \boxed{} with something in it inside <answer>"


def extract_answer(text: str) -> str | None:
    r"""Return the last ``\boxed{}`` of the last ``<answer>`` element; an element without end tag is read to the end.

    Args:
        text: the policy's text.

    Returns:
        The answer without surrounding blanks; macros such as ``\text{}`` are replaced by their content, LaTeX's spaces
        and escaped signs by plain ones. None if there is no answer.
    """
    _, found, element = text.rpartition("<answer>")
    answer = last_boxed(element.partition("</answer>")[0]) if found else None
    if answer is None:
        return None
    return plain_text(answer).strip() or None


def plain_text(answer: str) -> str:
    """Convert an answer from LaTeX to text: macros that only change the font are replaced by their content."""
    for _ in range(_DEEPEST):
        answer, found = _TEXT_MACRO.subn(r"\1", answer)
        if not found:
            break
    return _ESCAPED.sub(r"\1", _SPACE.sub(" ", _SWITCH.sub(" ", answer)))


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` with balanced braces, in one pass over the text; None if none.

    Escaped braces are text. Of nested boxes the innermost counts.
    """
    opened: list[tuple[bool, int]] = []  # whether it is a box, start of its content
    last: tuple[int, int] | None = None
    for brace in _BRACES.finditer(text):
        if brace.group() == "}":
            is_box, begin = opened.pop() if opened else (False, 0)
            if is_box and (last is None or begin > last[0]):
                last = begin, brace.start()
        elif brace.group().endswith("{") and brace.group() != r"\{":
            opened.append((brace.group() != "{", brace.end()))
    return text[slice(*last)] if last else None
