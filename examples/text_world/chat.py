"""The chat format of the world: one token a word, a call in a few tokens; see `verl_atpo/tiny/chat.py`."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from examples.text_world.engine import NOTHING_HAPPENS, SOLVED, VERBS
from examples.text_world.games import CONTAINERS, OBJECTS, ROOMS
from verl_atpo.tiny.chat import ChatFormat
from verl_atpo.tiny.tokenizer import END

DONE = "done"
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
    return WorldChat.tokenizer_of([ROOMS, CONTAINERS, OBJECTS, *VERBS, *_PHRASES, NOTHING_HAPPENS, SOLVED, DONE])
