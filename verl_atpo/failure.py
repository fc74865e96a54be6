"""What a run of an agent loop can die of: an outage passes and is tried again, a bug ends the training run.

Outages are named here. Whatever else a user's loop, a tool's contract or a reward raises is a bug, and would only come
again. Pure Python: errors of libraries that may not be installed are known by name.
"""

from __future__ import annotations

import asyncio

LONGEST_PAUSE_S = 60.0
LONGEST_REASON = 400
"""Characters of an error that a message repeats: one from a remote process carries that process's traceback."""


class TransientToolError(RuntimeError):
    """The call was not carried out, for a reason that may pass: it is made again."""


class ToolOutage(RuntimeError):
    """The tool's infrastructure failed past its retries: neither the model's fault nor an answer."""


class EngineOutage(RuntimeError):
    """The engine did not answer a generation: it is gone, starts anew, or gave the request up."""


class EmptyTurnError(RuntimeError):
    """A generation came back empty."""


class ReplayEndedError(RuntimeError):
    """The agent loop ended before its new turn, because the environment answered differently than before."""


class BranchBug(RuntimeError):
    """A bug of the loop, a tool or the reward, said with its remedy."""


class ContextRewrittenError(BranchBug):
    """The agent loop's context is not append-only, so turns have no place in the response."""


TRANSIENT = (TransientToolError, ConnectionError, TimeoutError, asyncio.TimeoutError)
TRANSIENT_ELSEWHERE = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "httpx.TransportError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
}
"""Errors of HTTP clients that the user's tools may use."""

OUTAGES = (ToolOutage, EngineOutage, EmptyTurnError, ReplayEndedError)
RAY_ERROR, RAY_TASK_ERROR = "ray.exceptions.RayError", "ray.exceptions.RayTaskError"


def is_transient(error: BaseException) -> bool:
    """Whether a call that failed with ``error`` may succeed when it is made again."""
    return isinstance(error, TRANSIENT) or not _names(error).isdisjoint(TRANSIENT_ELSEWHERE)


def is_outage(error: BaseException) -> bool:
    """Whether ``error`` is one of the infrastructure, so that the branch is grown again.

    Outages of tools and engine, connections and time-outs, and Ray's own errors. What a remote function raised is
    judged by what it was.
    """
    names = _names(error)
    if RAY_TASK_ERROR in names:
        cause = getattr(error, "cause", None)
        return isinstance(cause, BaseException) and is_outage(cause)
    return isinstance(error, OUTAGES) or is_transient(error) or RAY_ERROR in names


def pause_s(first: float, failed: int) -> float:
    """Seconds before a new try: ``first``, doubled for each of the ``failed`` ones before, to a minute at most.

    A longer ``first`` stays as it is.
    """
    return min(first * 2.0**failed, max(first, LONGEST_PAUSE_S))


def brief(error: BaseException) -> str:
    """The error's type and words in one short line, of what Ray wrapped if it did."""
    raised = getattr(error, "cause", None) if RAY_TASK_ERROR in _names(error) else error
    return f"{type(raised).__name__}: {raised}"[:LONGEST_REASON]


def _names(error: BaseException) -> set[str]:
    return {f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__}
