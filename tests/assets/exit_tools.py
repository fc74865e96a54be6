"""A plain function tool that misbehaves, each call in the way that its argument says."""

from __future__ import annotations

import asyncio
import sys

from verl.tools.function_tool import function_tool

_cancelled: list[int] = []


@function_tool
def look(at: int) -> str:
    """Look out of the window.

    Args:
        at: Where.
    """
    match at % 4:
        case 0:
            sys.exit(3)
        case 1:
            return next(iter(()))
        case 2 if len(_cancelled) < 3:
            _cancelled.append(at)
            raise asyncio.CancelledError
    return f"w{at % 30}"
