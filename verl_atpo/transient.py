"""Errors that may pass when a call is made again, whichever client raised them.

An error is judged by its class (built-in families, then names, since most clients are not installed here), by the
codes it carries, and, where it says nothing itself, by the errors that caused it. Pure Python.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import socket
import ssl
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

from verl_atpo.error_codes import attribute, verdict_of_codes
from verl_atpo.error_names import dotted, is_model_timeout, is_overload, is_refused, named_outage

FAMILIES = (
    ConnectionError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
    concurrent.futures.CancelledError,
    concurrent.futures.BrokenExecutor,
    socket.timeout,
    socket.gaierror,
    socket.herror,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ssl.SSLSyscallError,
    ssl.SSLWantReadError,
    ssl.SSLWantWriteError,
    http.client.IncompleteRead,
    http.client.BadStatusLine,
    http.client.ImproperConnectionState,
    urllib.error.ContentTooShortError,
)
"""Errors of the standard library: a connection that is refused, cut or timed out, a host that is not found, an executor
whose workers died."""

_CARRIED = ("reason", "cause", "inner_exception", "orig", "original_error", "source", "last_exception", "last_error")
"""Attributes in which clients keep the error that caused one."""
_MOST_ERRORS = 64


def passes(error: BaseException, verdict: Callable[[BaseException], bool | None] | None = None) -> bool:
    """Return whether an error, or one of its causes, is transient.

    Args:
        error: judged first, then its cause, its context unless suppressed, and errors in its attributes.
        verdict: judges one error; ``None`` leaves the decision to its causes. :func:`verdict_of` if not given.
    """
    judge = verdict or verdict_of
    pending, seen = [error], {id(error)}
    while pending and len(seen) <= _MOST_ERRORS:
        each = pending.pop(0)
        found = judge(each)
        if found:
            return True
        if found is None:
            members = group_members(each)
            if members:  # tasks of a group are cancelled because another one failed
                failed = [member for member in members if not isinstance(member, asyncio.CancelledError)]
                return all(passes(member, judge) for member in failed)
            for origin in origins(each):
                if id(origin) not in seen:
                    seen.add(id(origin))
                    pending.append(origin)
    return False


def verdict_of(error: BaseException) -> bool | None:
    """Judge one error by its class and codes: transient, not transient, or ``None`` if its causes decide."""
    kind = type(error)
    if is_model_timeout(kind) or _is_refused(error):
        return False
    if isinstance(error, FAMILIES) or is_overload(kind):
        return True
    if not isinstance(error, Exception):
        return None
    found = verdict_of_codes(error)
    if found is not None:
        return found
    lost = getattr(error, "connection_invalidated", None) is True  # SQLAlchemy's sign of a lost connection
    return True if lost or any(named_outage(dotted(each)) for each in kind.__mro__) else None


def _is_refused(error: BaseException) -> bool:
    """Return whether an error, or one that it wraps, is the request's fault: a refused certificate is a lost connection
    to most clients."""
    pending, seen = [error], {id(error)}
    while pending and len(seen) <= _MOST_ERRORS:
        each = pending.pop(0)
        if is_refused(type(each)):
            return True
        for origin in (each.__cause__, *_carried(each)):
            if isinstance(origin, BaseException) and id(origin) not in seen:
                seen.add(id(origin))
                pending.append(origin)
    return False


def origins(error: BaseException) -> Iterator[BaseException]:
    """Yield errors that led to this one: cause, context unless suppressed, and errors in its attributes."""
    linked = [error.__cause__, None if error.__suppress_context__ else error.__context__]
    for each in (*linked, *_carried(error)):
        if isinstance(each, BaseException):
            yield each


def group_members(error: BaseException) -> list[BaseException]:
    """Return the errors of an exception group, Python's or a backport's; an empty list for any other error."""
    if not any(kind.__name__ == "BaseExceptionGroup" for kind in type(error).__mro__):
        return []
    return [each for each in getattr(error, "exceptions", ()) if isinstance(each, BaseException)]


def _carried(error: BaseException) -> list[Any]:
    return [*(attribute(error, name) for name in _CARRIED), *error.args]
