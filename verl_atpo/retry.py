"""Retry policy: how often, when and after which errors a call is made again. Pure Python."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

_Result = TypeVar("_Result")
LONGEST_PAUSE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """Policy of how often and when a call is made again.

    Attributes:
        retries: calls after the first one.
        delay_s: seconds before the first retry; doubles with each further one, up to a minute.
        may_pass: whether a call that failed with this error may succeed on a retry.
        jitter_s: up to so many seconds are added to each pause, so that calls that failed together are spread.
    """

    retries: int
    delay_s: float
    may_pass: Callable[[BaseException], bool]
    jitter_s: float = 0.0

    async def call(
        self, make: Callable[[], Awaitable[_Result]], failed: Callable[[Exception, int], None] | None = None
    ) -> _Result:
        """Make a call until it succeeds.

        Args:
            make: makes it once.
            failed: called before each pause with the error and the number of calls so far.

        Raises:
            Exception: the last call's, or the first one that no retry can mend.
        """

        async def once() -> _Result:
            return await make()

        def note(state: RetryCallState) -> None:
            error = None if state.outcome is None else state.outcome.exception()
            if failed is not None and isinstance(error, Exception):
                failed(error, state.attempt_number)

        attempts = AsyncRetrying(
            stop=stop_after_attempt(self.retries + 1),
            wait=lambda state: self.pause_s(state.attempt_number - 1) + random.uniform(0.0, self.jitter_s),
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and self.may_pass(error)),
            before_sleep=note,
            reraise=True,
        )
        return await attempts(once)

    def pause_s(self, failed: int) -> float:
        """Return the seconds before a retry: the first delay, doubled for each of the ``failed`` earlier retries.

        At most a minute, unless the first delay is longer.
        """
        return min(self.delay_s * 2.0**failed, max(self.delay_s, LONGEST_PAUSE_S))
