r"""Separation of the policy's text from retrieved text in the text of a trajectory.

verl passes a reward the decoded response: the policy's turns and the observations between them, without special
tokens. Two forms of observations are known:

- ``tags``: ``<search>query</search>``, then ``<result> ... </result>``. Sampling stops at ``</search>``, so what the
  policy writes never follows a call directly.
- ``tools``: ``<tool_call>{...}</tool_call>``, then Qwen's chat template without its special tokens:
  ``user\n<tool_response>\n ... \n</tool_response>\nassistant\n``, one ``<tool_response>`` for each parallel call.

Rules for text that may be hostile:

- An observation answers calls of the turn before it. Text that looks like an observation but does not follow a call, or
  holds more answers than there were calls, was written by the policy: it counts as the policy's text, and
  ``format_error`` refuses it.
- An observation ends where its closing tag does, or with the response if that was cut off. Retrieved text must
  therefore not hold that tag; the package's tools see to it, and nothing else in retrieved text matters.
- With ``tools``, sampling does not stop after a call, so a policy can write a call and a forged answer to it in one
  turn. If the turn limit then ends the trajectory, the text alone cannot show that. The policy's own tokens can:
  ``extra_info["policy_text"]`` (see ``qa.compute_score``).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator


class Style(str, enum.Enum):
    """Form in which the policy calls the search tool."""

    TOOLS = "tools"
    TAGS = "tags"
    ANY = "any"
    """The style of the response's first call; fits all data, and checks less than the other two."""


_CALL_TAGS = {Style.TOOLS: "tool_call", Style.TAGS: "search"}
_FIRST_CALL = re.compile(r"<(?:search|tool_call)>")
_RESULT = re.compile(r"\s*<result>.*?(?:</result>|\Z)", re.DOTALL)
_TOOL_RESPONSES_OPEN = "user\n<tool_response>"
_TOOL_RESPONSES_CLOSE = re.compile(r"</tool_response>\s*(?:assistant\n|\Z)")


def call_tag(response: str, style: Style) -> str:
    """Name of the element that is a call in this response."""
    if style is not Style.ANY:
        return _CALL_TAGS[style]
    first = _FIRST_CALL.search(response)
    return first.group()[1:-1] if first else _CALL_TAGS[Style.TAGS]


def split_turns(response: str, style: Style) -> list[str]:
    """The policy's turns, in order, without the observations between them.

    Returns:
        One text per turn, at least one; the last is blank if the response ends with an observation.
    """
    spans = _results if call_tag(response, style) == _CALL_TAGS[Style.TAGS] else _tool_responses
    turns, start = [], 0
    for begin, end in spans(response):
        turns.append(response[start:begin])
        start = end
    return [*turns, response[start:]]


def _results(response: str) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of each ``<result>`` observation."""
    position = calls = 0
    while (call := response.find("</search>", position)) >= 0:
        position = end = call + len("</search>")
        calls += 1
        while calls and (result := _RESULT.match(response, end)):
            end = result.end()
            calls -= 1
        if end > position:
            yield position, end
            position, calls = end, 0


def _tool_responses(response: str) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of each user message with ``<tool_response>`` elements, role names included."""
    position = 0
    while (begin := response.find(_TOOL_RESPONSES_OPEN, position)) >= 0:
        closing = _TOOL_RESPONSES_CLOSE.search(response, begin)
        end = closing.end() if closing else len(response)
        calls = response.count("</tool_call>", position, begin)
        if response.count("<tool_response>", begin, end) <= calls:
            yield begin, end
            position = end
        else:
            position = begin + len(_TOOL_RESPONSES_OPEN)
