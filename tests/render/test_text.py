"""Untrusted text: visible, free of the template, short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_atpo.render.diff import compare
from verl_atpo.render.text import columns, headline, shorten, visible, without_template, wrap
from verl_atpo.view.turn_panel import numbers

SPECIAL = ["<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("a\x00b\x07", "a␀b␇"),
        ("\u202eevil\u2066", "⟨RLO⟩evil⟨LRI⟩"),
        ("zero\u200bwidth", "zero⟨ZWSP⟩width"),
        ("half \ud800 of a pair", "half ⟨U+D800⟩ of a pair"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("<b>שלום</b>", "<b>שלום</b>"),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_the_chat_template_goes_with_its_roles() -> None:
    text = "<|im_end|>\n<|im_start|>user\n<tool_response>\nuser\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert without_template(text, SPECIAL) == "<tool_response>\nuser\n</tool_response>"
    assert without_template("a <|endoftext|>", []) == "a "
    assert without_template("1 <|x 2|> 3", []) == "1 <|x 2|> 3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('hm\n<tool_call>\n{"name": "search", "arguments": {"query": "Ada", "k": 3}}\n</tool_call>', "search(Ada, 3)"),
        ('{"name": "a", "arguments": {}}\n{"name": "b", "arguments": [1]}', "a()  b([1])"),
        ('{"name": broken} then words', '{"name": broken} then words'),
        ("<think>x</think> <search>who is it</search>", "search(who is it)"),
        ("so <answer>42\n</answer>", "answer: 42"),
        ("plain\nwords", "plain words"),
        ('{"name": "' + "x" * 9000, '{"name": "' + "x" * 3990),
        ("[" * 9000 + '{"name": ' + "[" * 9000, "[" * 4000),
        ("", ""),
    ],
)
def test_the_headline_says_what_a_turn_does(text: str, words: str) -> None:
    assert headline(text) == words


@given(st.text(max_size=60), st.integers(2, 30))
def test_shortened_text_fits(text: str, width: int) -> None:
    short = shorten(text, width)
    assert sum(map(columns, short)) <= width
    assert short == text or short.endswith("…")


@given(st.text(alphabet="ab 漢", max_size=80), st.integers(4, 20), st.integers(1, 4))
def test_wrapped_lines_fit_and_lose_nothing_but_the_end(text: str, width: int, lines: int) -> None:
    wrapped = wrap(text, width, lines)
    assert len(wrapped) <= lines and all(sum(map(columns, line)) <= width for line in wrapped)
    kept = "".join(wrapped).replace(" ", "")
    assert text.replace(" ", "").startswith(kept.removesuffix("…"))


@given(st.text(alphabet="ab \n", max_size=60), st.text(alphabet="ab \n", max_size=60))
def test_a_diff_holds_both_texts(one: str, other: str) -> None:
    changes = compare(one, other)
    assert "".join(change.left for change in changes) == one
    assert "".join(change.right for change in changes) == other
    assert (one == other) == all(change.equal for change in changes)


def test_a_diff_of_long_texts_goes_by_lines() -> None:
    one = "word " * 2000 + "\n" + "word " * 2000
    changes = compare(one, one + "\nmore")
    assert changes[0].equal and changes[0].left == "word " * 2000 + "\n" and "more" in changes[-1].right


def test_a_turn_s_numbers_are_those_that_the_dump_has() -> None:
    node = {"advantage": 0.5, "value": 0.25, "mean_nll": None, "tokens": 12, "round": 0, "tool_s": 0.1}
    assert numbers(node) == {"advantage": "+0.50", "value": "0.25", "tokens": "12", "round": "0", "tools": "0.10 s"}
    credited = node | {"tool_reward": 1.0, "information_gain": -0.125}
    assert numbers(credited) == numbers(node) | {"tool reward": "1", "information gain": "-0.12"}
