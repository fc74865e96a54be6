"""Calls of a user's code in the driver, on a thread of their own and with a time limit."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes:
        returned: what it returned, awaited where it was a coroutine.
        raised: what it raised.
        late: it was still running when its time was over; its thread goes on and keeps no process alive.
    """

    returned: Any = None
    raised: BaseException | None = None
    late: bool = False


def attempt(function: Callable[[], Any], seconds: float) -> Outcome:
    """Call a function that may hang, raise anything or return a coroutine.

    Args:
        function: what to call.
        seconds: how long to wait for it.
    """
    outcomes: list[Outcome] = []

    def call() -> None:
        try:
            returned = function()
            outcomes.append(Outcome(asyncio.run(_awaited(returned)) if inspect.isawaitable(returned) else returned))
        except BaseException as error:
            outcomes.append(Outcome(raised=error))

    thread = threading.Thread(target=call, name="start-up trial", daemon=True)
    thread.start()
    thread.join(seconds)
    return outcomes[0] if outcomes else Outcome(late=True)


async def _awaited(value: Any) -> Any:
    return await value
