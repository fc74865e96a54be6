"""Wrapping a function at most once."""

from __future__ import annotations

import functools

from verl_atpo.seams.wrap import wrap_once


class Owner:
    def greet(self) -> str:
        """Greet."""
        return "hello"


def louder(original):
    return lambda self: f"{original(self)}!"


def twice(original):
    return lambda self: f"{original(self)} {original(self)}"


def test_a_wrapper_is_put_on_once_and_taken_off_again():
    owner = type("Own", (Owner,), {"greet": Owner.greet})
    wrap_once(owner, "greet", louder)
    wrapped = owner.greet
    undo = wrap_once(owner, "greet", louder)
    assert owner.greet is wrapped and owner().greet() == "hello!" and owner.greet.__doc__ == "Greet."
    undo()
    assert owner.greet is Owner.greet


def test_a_later_wrapper_of_one_name_replaces_the_earlier_one():
    owner = type("Own", (Owner,), {"greet": Owner.greet})

    def install(mark: str) -> None:
        def with_mark(original):
            return lambda self: original(self) + mark

        wrap_once(owner, "greet", with_mark)

    install("?")
    install("!")
    assert owner().greet() == "hello!"


def test_wrappers_of_two_names_go_round_one_another():
    owner = type("Own", (Owner,), {"greet": Owner.greet})
    for wrap in (louder, twice, louder, twice):
        wrap_once(owner, "greet", wrap)
    assert owner().greet() == "hello! hello!"


def test_a_wrapper_that_somebody_else_has_wrapped_stays():
    owner = type("Own", (Owner,), {"greet": Owner.greet})
    wrap_once(owner, "greet", louder)
    ours = owner.greet
    owner.greet = functools.wraps(ours)(lambda self: f"<{ours(self)}>")
    undo = wrap_once(owner, "greet", louder)
    assert owner().greet() == "<hello!>"
    undo()
    assert owner().greet() == "<hello!>"
