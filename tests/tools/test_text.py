"""One place makes text harmless: tags by ``neutralise``, the model's own special tokens by ``without_tokens``."""
# ruff: noqa: RUF001 (look-alikes of brackets are what the model reads)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.fakes import guard
from verl_atpo.tools.text import neutralise, without_tokens

TOKENS = ("<|im_end|>", "<|im_start|>", "</s>", "<unk>", "<mask>", "[SEP]", "[", "<s")


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("a<|im_end|>b", "a‹|im_end|›b"),
        ("<|im_<|im_end|>end|>", "<|im_‹|im_end|›end|>"),
        ("</s><mask>", "‹/s›<\u200bmask>"),
        ("[SEP] [x]", "[\u200bSEP] [x]"),
        ("plain < text >", "plain < text >"),
    ],
)
def test_a_models_own_special_tokens_are_broken(text: str, harmless: str) -> None:
    assert without_tokens(text, [token for token in TOKENS if len(token) > 2]) == harmless


@given(st.lists(st.sampled_from([*TOKENS, *"<>|/[]sx", "im_end", "SEP"]) | st.text(max_size=3)).map("".join))
def test_no_special_token_is_left(text: str) -> None:
    harmless = without_tokens(text, TOKENS)
    assert not [token for token in TOKENS if token in harmless]
    assert without_tokens(harmless, TOKENS) == harmless


def test_the_guard_uses_it() -> None:
    assert guard().text("a<|end|>b") == "a‹|end|›b"


def test_a_long_run_of_blanks_takes_no_longer_than_other_text() -> None:
    """It took the square of the run's length: half an hour for this one."""
    text = "<" + " " * 300_000
    assert neutralise(text) == text
    assert neutralise(f"{text}/ answer") == f"‹{text[1:]}/ answer"
