"""The chat format of the tiny models: ChatML with Hermes tool calls, in few tokens.

Every word of a task is one token, and so is each fixed string of the format: a tool call is two tokens and its
argument. The prompt omits the tool's schema, since the model learns its only tool in the warm start.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from verl_atpo.tiny.tokenizer import END, START, word_tokenizer

OBSERVATION_OPEN, OBSERVATION_CLOSE = "<tool_response>", "</tool_response>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class ChatFormat:
    """Token ids of the parts of a conversation; the concatenated parts are the conversation.

    Attributes:
        tool, argument: names of the tool and of its argument; other calls, and those with several arguments, take more
            tokens.
        quote: quotation mark around the argument's value; empty for a number.
        fixed: other strings that are one token each.
    """

    tool: str = "tool"
    argument: str = "argument"
    quote = '"'
    fixed: tuple[str, ...] = ()

    @classmethod
    def tokenizer_of(cls, lines: Sequence[str]) -> PreTrainedTokenizerFast:
        """Train a tokenizer in which every word of `lines` and every fixed string of the format is one token."""
        call_open = f'<tool_call>\n{{"name": "{cls.tool}", "arguments": {{"{cls.argument}": {cls.quote}'
        call_close = f"{cls.quote}}}}}\n</tool_call>"
        fixed = ("\n", call_open, call_close, OBSERVATION_OPEN, OBSERVATION_CLOSE, *cls.fixed)
        return word_tokenizer(lines, fixed, opening=(call_open,))

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Store the tokenizer; observations repeat, so their ids are cached."""
        self.tokenizer = tokenizer
        self.observation = functools.lru_cache(maxsize=None)(self._observation)

    def prompt(self, question: str) -> list[int]:
        """Return the ids of the prompt, up to the start of the model's first turn."""
        return self.encode(f"{START}user\n{question}{END}\n{START}assistant\n")

    def call(self, thought: str, value: str | int | Mapping[str, Any], tool: str | None = None) -> list[int]:
        """Return the ids that the model samples to call the tool, the end token included.

        Args:
            thought: comes first and may be empty.
            value: value of the argument; or all arguments by name.
            tool: name of a tool other than the format's.
        """
        arguments = value if isinstance(value, Mapping) else {self.argument: value}
        body = json.dumps({"name": tool or self.tool, "arguments": arguments}, ensure_ascii=False)
        return self.encode(f"{thought}<tool_call>\n{body}\n</tool_call>{END}")

    def called(self, turn_ids: list[int]) -> str | None:
        """Parse a sampled turn as verl's agent loop does: the argument of its first well-formed call, if any."""
        for body in _CALL.findall(self.decode(turn_ids)):
            try:
                return str(json.loads(body)["arguments"][self.argument])
            except (ValueError, KeyError, TypeError):
                continue
        return None

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Decode ids to text; verl's reward manager skips special tokens, its tool parser does not."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a piece of text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _observation(self, text: str) -> tuple[int, ...]:
        """Return the ids between the end token of a calling turn and the start of the next turn."""
        message = f"\n{START}tool\n{OBSERVATION_OPEN}{text}{OBSERVATION_CLOSE}{END}\n{START}assistant\n"
        return tuple(self.encode(message))


class AnswerChat(ChatFormat):
    """Conversations that end with an answer between tags, as `answer_reward.py` reads it."""

    fixed = (ANSWER_OPEN, ANSWER_CLOSE)

    def answer(self, thought: str, answer: str) -> list[int]:
        """Return the ids that the model samples to answer, the end token included."""
        return self.encode(f"{thought}{ANSWER_OPEN}{answer}{ANSWER_CLOSE}{END}")
