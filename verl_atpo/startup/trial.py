"""Trial calls of a user's code in the driver, each on its own thread and with a time limit."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """Result of a trial call.

    Attributes:
        returned: its return value, awaited if it is a coroutine.
        raised: its error.
        late: whether it exceeded its time limit; its thread continues, but does not keep the process alive.
    """

    returned: Any = None
    raised: BaseException | None = None
    late: bool = False


def attempt(function: Callable[[], Any], seconds: float) -> Outcome:
    """Call a function that may hang, raise anything or return a coroutine.

    Args:
        function: called without arguments.
        seconds: time limit.
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
