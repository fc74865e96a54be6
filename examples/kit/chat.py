"""The tokenizer and the chat format: ChatML with Hermes tool calls, written in few tokens.

The tokenizer is a byte-level BPE that knows every word of the world as one token (any other text is
spelled in bytes), plus one token for each fixed string of the format. A tool call takes two tokens
and its query. The tool's schema is left out of the prompt: the model knows its only tool from the warm start.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from examples.hopqa.lexicon import Lexicon
from examples.hopqa.schema import RELATION_NAMES, Kind
from examples.kit.answer_reward import final_answer

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL_OPEN, CALL_CLOSE = '<tool_call>\n{"name": "search", "arguments": {"query": "', '"}}\n</tool_call>'
OBSERVATION_OPEN, OBSERVATION_CLOSE = "<tool_response>", "</tool_response>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

_FORMAT_TOKENS = ("\n", CALL_OPEN, CALL_CLOSE, OBSERVATION_OPEN, OBSERVATION_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def build_tokenizer(lexicon: Lexicon) -> PreTrainedTokenizerFast:
    """Trains the tokenizer of a world."""
    words = [*lexicon.all_words(), *RELATION_NAMES, "What is the of", "system user assistant tool", "Nothing found"]
    return word_tokenizer([*words, *(f"({kind.value})." for kind in Kind), "x; x: x?"], _FORMAT_TOKENS)


def word_tokenizer(lines: list[str], fixed: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Trains a tokenizer with one token for every word of `lines` and for every string of `fixed`.

    A space is put in front of every piece of text, so that a name has the same tokens wherever it
    stands: in a question, a passage, a query or an answer.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        show_progress=False,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(lines, trainer)
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in fixed])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        chat_template=_TEMPLATE.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


@dataclass(frozen=True)
class ToolCall:
    """A turn that searches."""

    query: str


@dataclass(frozen=True)
class FinalTurn:
    """A turn that ends the conversation; `answer` is None if it gives none."""

    answer: str | None


class ChatFormat:
    """Token ids of the parts of a conversation, such that the parts in a row are the conversation.

    Attributes:
        tool, argument: names of the only tool and of its only argument.
    """

    tool = "search"
    argument = "query"

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Keeps the tokenizer; observations repeat, so their ids are cached."""
        self.tokenizer = tokenizer
        self.observation = functools.lru_cache(maxsize=None)(self._observation)

    def prompt(self, question: str) -> list[int]:
        """Ids up to where the model's first turn starts."""
        return self.encode(f"{START}user\n{question}{END}\n{START}assistant\n")

    def call(self, thought: str, value: str) -> list[int]:
        """Ids the model samples to call the tool, the end token included; the thought comes first and may be empty."""
        body = json.dumps({"name": self.tool, "arguments": {self.argument: value}}, ensure_ascii=False)
        return self.encode(f"{thought}<tool_call>\n{body}\n</tool_call>{END}")

    def called(self, turn_ids: list[int]) -> str | None:
        """Reads a sampled turn the way verl's agent loop does: the argument of its first well-formed call, if any."""
        for body in _CALL.findall(self.decode(turn_ids)):
            try:
                return str(json.loads(body)["arguments"][self.argument])
            except (ValueError, KeyError, TypeError):
                continue
        return None

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Text of the ids; verl's reward manager skips special tokens, its tool parser does not."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def _observation(self, text: str) -> tuple[int, ...]:
        """Ids between the end token of a calling turn and the start of the next turn."""
        message = f"\n{START}tool\n{OBSERVATION_OPEN}{text}{OBSERVATION_CLOSE}{END}\n{START}assistant\n"
        return tuple(self.encode(message))

    def encode(self, text: str) -> list[int]:
        """Ids of a piece of text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class ChatCodec(ChatFormat):
    """The conversations of this example: searches, then an answer."""

    def answer(self, thought: str, answer: str) -> list[int]:
        """Ids the model samples to answer, the end token included."""
        return self.encode(f"{thought}{ANSWER_OPEN}{answer}{ANSWER_CLOSE}{END}")

    def parse(self, turn_ids: list[int]) -> ToolCall | FinalTurn:
        """Reads a sampled turn: a call, else the end of the conversation."""
        query = self.called(turn_ids)
        return FinalTurn(final_answer(self.decode(turn_ids))) if query is None else ToolCall(query)
