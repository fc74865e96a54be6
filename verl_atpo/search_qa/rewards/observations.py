r"""What the policy wrote and what was retrieved, told apart in the text of a whole trajectory.

verl hands a reward the decoded response: the policy's turns and the observations between them, special tokens gone.
Two ways of putting an observation there are known:

- ``tags``: ``<search>query</search>``, then ``<result> ... </result>``. Sampling stops at ``</search>``, so what the
  policy writes never follows a call directly.
- ``tools``: ``<tool_call>{...}</tool_call>``, then Qwen's chat template, less its special tokens:
  ``user\n<tool_response>\n ... \n</tool_response>\nassistant\n``, one ``<tool_response>`` for each parallel call.

Rules, for text that can be hostile:

- An observation answers calls of its own turn. Anything that looks like one but is not behind a call, or holds more
  answers than there were calls, was written by the policy: it counts as its text, and ``format_error`` refuses it.
- An observation ends where its closing tag does, or with the response if that was cut off. Retrieved text must
  therefore not hold that tag; the package's tools see to it, and nothing else in retrieved text matters.
- With ``tools``, sampling does not stop behind a call, so a policy can write a call and a forged answer to it in one
  turn. Where the turn limit then ends the trajectory, the text alone cannot show it. The policy's own tokens can:
  ``extra_info["policy_text"]`` (see ``qa.compute_score``).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator


class Style(str, enum.Enum):
    """How the policy calls the search tool."""

    TOOLS = "tools"
    TAGS = "tags"
    ANY = "any"
    """Whichever of the two the first call of the response is in; fits all data, and checks less than the others."""


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
    """Where the ``<result>`` observations begin and end."""
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
    """Where the user messages with ``<tool_response>`` elements begin and end, role names included."""
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
