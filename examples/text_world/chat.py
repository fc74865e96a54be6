"""The chat format of the world: one token a word, a call in a few tokens; see `examples/kit/chat.py`."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from examples.kit.chat import CALL_CLOSE, END, OBSERVATION_CLOSE, OBSERVATION_OPEN, ChatFormat, word_tokenizer
from examples.text_world.engine import NOTHING_HAPPENS, SOLVED, VERBS
from examples.text_world.games import CONTAINERS, OBJECTS, ROOMS

DONE = "done"
_CALL_OPEN = '<tool_call>\n{"name": "world", "arguments": {"action": "'
_PHRASES = ("Put the in with closed empty doors:", "find bring", "system user assistant tool", "x, x.")


class WorldChat(ChatFormat):
    """Conversations that act in the world, then say that they are done."""

    tool = "world"
    argument = "action"

    def done(self) -> list[int]:
        """Ids the model samples to end the conversation, the end token included."""
        return self.encode(f"{DONE}{END}")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Trains the tokenizer."""
    words = [ROOMS, CONTAINERS, OBJECTS, *VERBS, *_PHRASES, NOTHING_HAPPENS, SOLVED, DONE]
    return word_tokenizer(words, ("\n", _CALL_OPEN, CALL_CLOSE, OBSERVATION_OPEN, OBSERVATION_CLOSE))
