"""The chat format of HopQA, in the kit's: searches, then an answer."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from examples.hopqa.lexicon import Lexicon
from examples.hopqa.schema import RELATION_NAMES, Kind
from examples.kit.answer_reward import final_answer
from verl_atpo.tiny.chat import AnswerChat


@dataclass(frozen=True)
class ToolCall:
    """A turn that searches."""

    query: str


@dataclass(frozen=True)
class FinalTurn:
    """A turn that ends the conversation; `answer` is None if it gives none."""

    answer: str | None


class ChatCodec(AnswerChat):
    """The conversations of this example."""

    tool = "search"
    argument = "query"

    def parse(self, turn_ids: list[int]) -> ToolCall | FinalTurn:
        """Reads a sampled turn: a call, else the end of the conversation."""
        query = self.called(turn_ids)
        return FinalTurn(final_answer(self.decode(turn_ids))) if query is None else ToolCall(query)


def build_tokenizer(lexicon: Lexicon) -> PreTrainedTokenizerFast:
    """Trains the tokenizer of a world."""
    words = [*lexicon.all_words(), *RELATION_NAMES, "What is the of", "system user assistant tool", "Nothing found"]
    return ChatCodec.tokenizer_of([*words, *(f"({kind.value})." for kind in Kind), "x; x: x?"])
