"""The tokenizer and the chat format: those of the kit, with the words of this example.

A number of up to three digits is one token, whatever stands around it; so is a name. A fourth digit is a token of its
own. What the model reads is therefore made of the tokens that it writes, and copying them is all that it has to do.
"""

from __future__ import annotations

from tokenizers import decoders
from transformers import PreTrainedTokenizerFast

from examples.python_sandbox.problems import NAMES, OPERATIONS
from verl_atpo.tiny.chat import AnswerChat
from verl_atpo.tools.python.tool import NO_OUTPUT

_WORDS = "system user assistant tool . ? = What does cost costs more than less times"
_TRACEBACK = (
    "Traceback (most recent call last): File \"<call 1>\", line 1, in <module> NameError: name 'x' is not defined"
)


class PythonChat(AnswerChat):
    """The conversations of this example: calls of the `python` tool, then an answer."""

    tool = "python"
    argument = "code"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Trains the tokenizer; it is always the same."""
    numbers = [str(number) for number in range(1000)]
    tokenizer = PythonChat.tokenizer_of(
        [*numbers, *NAMES, *OPERATIONS, *_WORDS.split(), *_TRACEBACK.split(), *NO_OUTPUT.split()]
    )
    # Every name begins with a space, and to Python a space at the beginning of a line means something.
    opening = '<tool_call>\n{"name": "python", "arguments": {"code": "'
    unindent = decoders.Replace(f"{opening} ", opening)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), unindent])
    return tokenizer
