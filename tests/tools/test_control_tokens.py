"""No token of the added vocabulary comes alive in what a tool says, whichever kind of tokenizer reads it."""

# ruff: noqa: RUF001 (look-alikes of brackets are what some models use)

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from verl_atpo.config import ToolConfig
from verl_atpo.replay.guard import ToolGuard
from verl_atpo.tools import harmless
from verl_atpo.tools.text import ControlTokens

SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "[SEP]"]
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|eom_id|>",
    "<|start_header_id|>",
    "<｜User｜>",
    "[INST]",
    "§obs§",
    "<extra_id_0>",
]
WORDS = ["hall", "red", "the", "User", "im", "end", "<", ">", "|", "[", "]", "/", "_"]


def fast(core: Tokenizer, normalized: bool) -> PreTrainedTokenizerFast:
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    core.add_tokens([AddedToken(text, special=False, normalized=normalized) for text in PLAIN])
    core.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", unk_token="<unk>")


def byte_level() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: at for at, letter in enumerate([*letters, "<unk>"])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return core


def word_piece() -> Tokenizer:
    letters = [prefix + chr(code) for code in range(33, 127) for prefix in ("", "##")]
    core = Tokenizer(models.WordPiece({text: at for at, text in enumerate(["<unk>", *letters])}, unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return core


def unigram() -> Tokenizer:
    letters = [chr(code) for code in range(33, 127)]
    core = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -1.0) for letter in letters), ("▁", -1.0)], 0))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")])
    return core


def words() -> Tokenizer:
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["<unk>", *WORDS])}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return core


KINDS = {
    f"{make.__name__}{' normalized' if normalized else ''}": fast(make(), normalized)
    for make in (byte_level, word_piece, unigram, words)
    for normalized in (False, True)
}


def alive(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    added = {token: name for name, token in tokenizer.get_added_vocab().items() if name.strip()}
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [added[token] for token in ids if token in added]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", [*SPECIAL, *PLAIN])
def test_every_added_token_is_broken(kind: str, token: str) -> None:
    tokenizer = KINDS[kind]
    assert alive(tokenizer, f"red {token} hall")  # the control: it would come alive
    for text in (token, f"red {token} hall", f"red{token}hall", token + token, token.upper(), f" {token}\n\n{token} "):
        assert not alive(tokenizer, harmless(text, tokenizer)), text
        assert not alive(tokenizer, ToolGuard(ToolConfig(), tokenizer).text(text))


PIECES = st.lists(st.sampled_from([*SPECIAL, *PLAIN, *WORDS, " ", "\n"]) | st.text(max_size=2), max_size=8).map("".join)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), PIECES)
def test_nothing_comes_alive_and_nothing_else_is_lost(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    safe = harmless(text, tokenizer)
    assert not alive(tokenizer, safe)
    if not alive(tokenizer, text) and not any(token in text for token in ControlTokens(tokenizer).tokens):
        assert safe == text.encode(errors="replace").decode()


def test_white_space_is_text() -> None:
    assert harmless("a\n\nb", KINDS["byte_level"]) == "a\n\nb"


def test_a_tokenizer_without_an_added_vocabulary_is_asked_for_special_tokens() -> None:
    class Other:
        all_special_tokens = ("<eos>",)

        def get_added_vocab(self) -> dict[str, int]:
            raise NotImplementedError

    assert harmless("a<eos>", Other()) != "a<eos>"
