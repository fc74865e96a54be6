"""Byte-level BPE tokenizers for tiny models: they encode any text, and the task's text in few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_TOOL_CALLS = Path(__file__).with_name("chat_template.jinja")


def word_tokenizer(
    lines: Sequence[str], fixed: Sequence[str] = (), opening: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a tokenizer with one token for every word of `lines` and for every string of `fixed`.

    A space is put before every piece of text, so that a name has the same tokens in a question, a passage, a query
    and an answer. Decoding removes it after the strings of `fixed` that are also in `opening`, so that a tool gets its
    argument without it. The chat template is ChatML with Hermes tool calls.
    """
    core = _byte_level(lines, vocabulary=8192, min_frequency=1, prefix_space=True)
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in fixed])
    without_spaces = [decoders.Replace(f"{text} ", text) for text in opening]
    core.decoder = decoders.Sequence([decoders.ByteLevel(), *without_spaces])
    return _wrapped(core, _TOOL_CALLS.read_text(encoding="utf-8"), context=512)


def text_tokenizer(
    lines: Sequence[str], chat_template: str | None = None, context: int = 512
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on running text; `context` is the longest sequence, in tokens."""
    return _wrapped(_byte_level(lines, vocabulary=4096, min_frequency=0, prefix_space=False), chat_template, context)


def _byte_level(lines: Sequence[str], vocabulary: int, min_frequency: int, prefix_space: bool) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(lines, trainer)
    return core


def _wrapped(core: Tokenizer, chat_template: str | None, context: int) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
