"""The retry policy: which errors are tried again, how often and when."""

from __future__ import annotations

import asyncio

import pytest

from verl_atpo.retry import Retry


class Call:
    """A call that raises the given errors in order, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.made = list(errors), 0

    async def __call__(self) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def policy(retries: int) -> Retry:
    return Retry(retries, 0.0, lambda error: isinstance(error, ConnectionError))


def test_a_call_is_made_again_until_it_succeeds():
    call, failures = Call(ConnectionError("a"), ConnectionError("b")), []
    found = asyncio.run(policy(2).call(lambda: call(), lambda error, calls: failures.append((str(error), calls))))
    assert (found, call.made, failures) == ("done", 3, [("a", 1), ("b", 2)])


def test_the_last_error_is_raised_as_it_is_and_noted_by_nobody():
    last = ConnectionError("b")
    call, failures = Call(ConnectionError("a"), last), []
    with pytest.raises(ConnectionError) as caught:
        asyncio.run(policy(1).call(lambda: call(), lambda error, calls: failures.append(str(error))))
    assert caught.value is last and call.made == 2 and failures == ["a"]


@pytest.mark.parametrize("error", [KeyError("a bug"), asyncio.CancelledError()])
def test_what_cannot_pass_is_not_tried_again(error):
    call = Call(error)
    with pytest.raises(type(error)):
        asyncio.run(policy(9).call(lambda: call()))
    assert call.made == 1


def test_a_cancellation_is_no_error_that_may_pass():
    call = Call(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Retry(9, 0.0, lambda error: True).call(lambda: call()))
    assert call.made == 1


def test_pauses_double_up_to_a_minute_and_a_longer_first_one_is_not_shortened():
    def pauses(first: float, *failed: int) -> list[float]:
        return [Retry(0, first, bool).pause_s(each) for each in failed]

    assert pauses(1.0, 0, 1, 2, 5, 6, 100) == [1.0, 2.0, 4.0, 32.0, 60.0, 60.0]
    assert pauses(0.0, 50) == [0.0] and pauses(300.0, 0, 3) == [300.0, 300.0]
