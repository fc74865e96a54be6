"""Which errors may pass when a call is made again, whichever client raised them.

An error is judged by its class (built-in families, then names, since most clients are not installed here), by the
HTTP or gRPC status it carries, and, where it says nothing itself, by the errors that caused it. Pure Python.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

FAMILIES = (
    ConnectionError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
    socket.timeout,
    socket.gaierror,
    socket.herror,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    http.client.IncompleteRead,
    http.client.BadStatusLine,
)
"""Errors of the standard library: a connection that is refused, cut or timed out, or a host that is not found."""

_ERRNO_NAMES = """
    ECONNABORTED ECONNREFUSED ECONNRESET EPIPE ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH
    ENOTCONN ESHUTDOWN EADDRNOTAVAIL EMFILE ENFILE ENOBUFS ESTALE
"""
ERRNOS = frozenset(getattr(errno, name) for name in _ERRNO_NAMES.split() if hasattr(errno, name))
"""Error numbers of a plain ``OSError`` for network trouble, or a machine without free ports or descriptors."""

STATUSES = frozenset({429, 502, 503, 504, 521, 522, 523, 524, 529})
"""HTTP statuses of overload, gateways and servers that are down; any other from 400 on is the request's fault."""
RPC_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})

_CONNECTION = re.compile(
    r"[A-Za-z]*(ConnectionError|ConnectError|ConnectionClosed|ConnectionClosedError|ConnectionClosedOK|DisconnectedError"
    r"|ConnectTimeout|ConnectionTimeout|ReadTimeout|WriteTimeout|PoolTimeout|TimeoutError|NetworkError|TransportError"
    r"|RemoteProtocolError|ChunkedEncodingError|ClientPayloadError|IncompleteRead|AutoReconnect|BusyLoadingError"
    r"|BrokenResourceError|ClosedResourceError|EndOfStream)|Timeout"
)
"""Class names under which clients raise lost connections and time-outs."""
_OVERLOAD = re.compile(
    r"[A-Za-z]*(Unavailable|Overloaded|TooManyRequests|RateLimit|RateLimited|RateLimitExceeded|Throttling|Throttled"
    r"|BadGateway|GatewayTimeout|DeadlineExceeded)(Error|Exception)?"
)
"""Class names that mean overload, independent of the HTTP status."""
_OTHER_NAMES = frozenset(
    {
        "requests.exceptions.RetryError",
        "urllib3.exceptions.MaxRetryError",
        "urllib3.exceptions.ProtocolError",
    }
)
_NOT_THESE = re.compile(
    r"UnsupportedProtocol|LocalProtocolError|.*Certificate.*|InvalidURL|InvalidSchema|MissingSchema|LocationValueError"
)
"""Class names of errors that the request or the setup caused."""
_MODEL_TIMEOUTS = ("playwright", "selenium", "subprocess", "func_timeout", "wrapt_timeout_decorator")
"""Packages whose time-outs mean that the model's action did not happen in time, not that a server is down."""
_STATUS_ERRORS = frozenset({"APIStatusError", "APIError"})
"""Base classes of generated API clients, whose ``InternalServerError`` is transient."""
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
            if members:
                return all(passes(member, judge) for member in members)
            for origin in origins(each):
                if id(origin) not in seen:
                    seen.add(id(origin))
                    pending.append(origin)
    return False


def verdict_of(error: BaseException) -> bool | None:
    """Judge one error by itself: transient, not transient, or ``None`` if that cannot be decided."""
    if _is_named(error, _NOT_THESE):
        return False
    if isinstance(error, FAMILIES) or _says_overload(error):
        return True
    if not isinstance(error, Exception):
        return None
    status = status_of(error)
    if status is not None:
        return status in STATUSES
    code = rpc_code_of(error)
    if code is not None:
        return code in RPC_CODES
    if isinstance(error, OSError) and error.errno in ERRNOS:
        return True
    lost = getattr(error, "connection_invalidated", None) is True  # SQLAlchemy's sign of a lost connection
    return True if lost or any(named_outage(dotted(kind)) for kind in type(error).__mro__) else None


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status from 400 on of an error or its response; ``None`` if there is none."""
    return next((status for each in _candidates(error) if (status := _as_status(each)) is not None), None)


def _candidates(error: BaseException) -> Iterator[Any]:
    """Yield the attributes in which clients keep a status, lazily: some properties warn when they are read."""
    for name in ("status_code", "status", "http_status"):
        yield _attribute(error, name)
    for name in ("response", "resp"):
        response = _attribute(error, name)
        if isinstance(response, dict):  # botocore
            metadata = response.get("ResponseMetadata")
            yield metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
        else:
            yield _attribute(response, "status_code")
            yield _attribute(response, "status")
    yield _attribute(error, "code")


def rpc_code_of(error: BaseException) -> str | None:
    """Return the name of an error's gRPC status (``RpcError.code()``); ``None`` if there is none."""
    code = _attribute(error, "code")
    if callable(code):
        try:
            code = code()
        except Exception:
            return None
    name = _attribute(code, "name")
    return name if isinstance(name, str) and name.isupper() else None


def origins(error: BaseException) -> Iterator[BaseException]:
    """Yield errors that led to this one: cause, context unless suppressed, and errors in its attributes."""
    linked = [error.__cause__, None if error.__suppress_context__ else error.__context__]
    carried = [_attribute(error, name) for name in ("reason", "cause", "inner_exception", "orig", "original_error")]
    for each in (*linked, *carried, *error.args):
        if isinstance(each, BaseException):
            yield each


def group_members(error: BaseException) -> list[BaseException]:
    """Return the errors of an exception group, Python's or a backport's; an empty list for any other error."""
    if not any(kind.__name__ == "BaseExceptionGroup" for kind in type(error).__mro__):
        return []
    return [each for each in getattr(error, "exceptions", ()) if isinstance(each, BaseException)]


def named_outage(name: str) -> bool:
    """Return whether a class of this (dotted) name is a transient error of a client."""
    package, _, last = name.rpartition(".")
    if package.split(".")[0] in _MODEL_TIMEOUTS or _NOT_THESE.fullmatch(last):
        return False
    return name in _OTHER_NAMES or any(names.fullmatch(last) for names in (_CONNECTION, _OVERLOAD))


def dotted(kind: type) -> str:
    """Return module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _says_overload(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if "InternalServerError" in names and not names.isdisjoint(_STATUS_ERRORS):
        return True
    return any(map(_OVERLOAD.fullmatch, names))


def _is_named(error: BaseException, names: re.Pattern[str]) -> bool:
    return any(names.fullmatch(kind.__name__) for kind in type(error).__mro__)


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # a property of a foreign class
        return None


def _as_status(value: Any) -> int | None:
    try:
        status = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
    except ValueError:
        return None
    return status if status is not None and 400 <= status < 600 else None
