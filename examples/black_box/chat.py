"""The tokenizer and the format of calls: each opening of a call is one token, and so is each word."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from examples.black_box.repository import PASSED
from examples.black_box.tasks import FILES, NAMES, QUESTION, VALUES
from verl_atpo.tiny.chat import OBSERVATION_CLOSE, OBSERVATION_OPEN, ChatFormat
from verl_atpo.tiny.tokenizer import END, word_tokenizer

CHECK = '<tool_call>\n{"name": "check", "arguments": {}}\n</tool_call>'
FIND = '<tool_call>\n{"name": "find", "arguments": {"name": "'
EDIT, LINE = '<tool_call>\n{"name": "edit", "arguments": {"file": "', '", "line": "'
CLOSE = '"}}\n</tool_call>'
DONE = "done"
ANSWERS = f"{PASSED} edited nowhere no such file line error"


class RepairChat(ChatFormat):
    """Conversations of this example: calls of `check`, `find` and `edit`, then an answer."""

    def check(self) -> list[int]:
        """Ids of the turn that runs the checks."""
        return self.encode(f"{CHECK}{END}")

    def find(self, name: str) -> list[int]:
        """Ids of the turn that looks for a name."""
        return self.encode(f"{FIND}{name}{CLOSE}{END}")

    def edit(self, file: str, line: str) -> list[int]:
        """Ids of the turn that edits a file."""
        return self.encode(f"{EDIT}{file}{LINE}{line}{CLOSE}{END}")

    def done(self) -> list[int]:
        """Ids of the last turn."""
        return self.encode(f"{DONE}{END}")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; it is always the same."""
    fixed = ("\n", CHECK, FIND, EDIT, LINE, CLOSE, OBSERVATION_OPEN, OBSERVATION_CLOSE)
    words = [QUESTION, ANSWERS, f"user assistant tool = {DONE}", *FILES, *NAMES, *map(str, VALUES)]
    return word_tokenizer(words, fixed, opening=(FIND, EDIT, LINE))
