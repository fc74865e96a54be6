"""Codes of errors (HTTP statuses, gRPC codes, SQLSTATEs, numbers of databases and systems) that are transient."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Any

STATUSES = frozenset({408, 425, 429, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530, 598, 599})
"""HTTP statuses of overload, time-outs, gateways and servers that are down; any other from 400 on is the request's
fault."""
_RPC_PASSING = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"})
_RPC_LASTING = """
    CANCELLED UNKNOWN INVALID_ARGUMENT NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED UNAUTHENTICATED FAILED_PRECONDITION
    UNIMPLEMENTED INTERNAL DATA_LOSS OUT_OF_RANGE
"""
_RPC_CODES = _RPC_PASSING | set(_RPC_LASTING.split())
_ERRNO_NAMES = """
    ECONNABORTED ECONNREFUSED ECONNRESET EPIPE ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH
    ENOTCONN ESHUTDOWN EADDRNOTAVAIL EMFILE ENFILE ENOBUFS ENOMEM ENOLCK ESTALE EAGAIN
"""
_ERRNOS = frozenset(getattr(errno, name) for name in _ERRNO_NAMES.split() if hasattr(errno, name))
"""Numbers of network trouble, or a machine without free ports, descriptors, memory or processes."""
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_SQLSTATE_PASSING = re.compile(r"08...|53...|57P0[1-5]|40001|40P01|HYT0[01]")
"""Lost connections, too few resources, a server that stops or starts, deadlocks, time-outs of the login."""
_SQLITE_PASSING = frozenset({5, 6})  # SQLITE_BUSY, SQLITE_LOCKED
_MYSQL = frozenset({"pymysql", "MySQLdb", "aiomysql", "asyncmy", "mysql"})
_MYSQL_PASSING = frozenset({1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013, 2055, 4031})
_SQL_CLIENTS = frozenset({"psycopg", "psycopg2", "asyncpg", "pyodbc", "kombu"})
_CURL = frozenset({"pycurl", "curl_cffi"})
_CURL_PASSING = frozenset({5, 6, 7, 16, 18, 28, 35, 52, 55, 56, 92})
"""Numbers of curl: a host that is not found, a connection that is refused, cut or timed out."""
_MCP_PASSING = frozenset({-32000, -32001, 408, 32600})
"""JSON-RPC codes of MCP's clients: connection closed, request timed out, session ended."""
_TYPES = re.compile(
    "throttl|toomanyrequests|ratelimit|slowdown|overloaded|unavailable|requesttimeout|requestlimit|throughputexceeded"
    "|bandwidthlimit|servererror|internalerror|internalfailure|apierror|timeouterror|insufficientquota"
)
"""What the error type in an answer's body contains, without case and underscores."""


def verdict_of_codes(error: BaseException) -> bool | None:
    """Judge an error by its codes: transient, not transient, or ``None`` if it carries none."""
    if _type_passes(error):
        return True
    status = status_of(error)
    if status is not None:
        return status in STATUSES
    code = rpc_code_of(error)
    if code is not None:
        return code in _RPC_PASSING
    for judge in (_database_verdict, _mcp_verdict, _curl_verdict, _worded_verdict):
        if (found := judge(error)) is not None:
            return found
    number = attribute(error, "errno")
    return True if isinstance(number, int) and number in _ERRNOS else None


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status from 400 on of an error or its response; ``None`` if there is none."""
    return next((status for each in _candidates(error) if (status := _as_status(each)) is not None), None)


def _candidates(error: BaseException) -> Iterator[Any]:
    """Yield the attributes in which clients keep a status, lazily: some properties warn when they are read."""
    for name in ("status_code", "status", "http_status", "errcode"):
        yield attribute(error, name)
    for name in ("response", "resp"):
        response = attribute(error, name)
        if isinstance(response, dict):  # botocore
            metadata = response.get("ResponseMetadata")
            yield metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
        else:
            yield attribute(response, "status_code")
            yield attribute(response, "status")
    yield attribute(error, "code")


def rpc_code_of(error: BaseException) -> str | None:
    """Return the name of an error's gRPC status (``RpcError.code()``); ``None`` if there is none."""
    code = attribute(error, "code")
    if callable(code):
        try:
            code = code()
        except Exception:
            return None
    name = attribute(code, "name")
    return name if isinstance(name, str) and name in _RPC_CODES else None


def _type_passes(error: BaseException) -> bool:
    """Return whether the body of an answer names overload, which AWS sends with 400 and streams after a 200."""
    response, body = attribute(error, "response"), attribute(error, "body")
    holders = [response.get("Error")] if isinstance(response, dict) else []
    if isinstance(body, dict):
        holders += [body, body.get("error")]
    types = [each.get(name) for each in holders if isinstance(each, dict) for name in ("type", "code", "Code")]
    return any(isinstance(each, str) and _TYPES.search(each.replace("_", "").lower()) for each in types)


def _database_verdict(error: BaseException) -> bool | None:
    sqlite = attribute(error, "sqlite_errorcode")
    if isinstance(sqlite, int):
        return sqlite & 0xFF in _SQLITE_PASSING
    packages = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    first = error.args[0] if error.args else None
    states = (attribute(error, "sqlstate"), attribute(error, "pgcode"), first if "pyodbc" in packages else None)
    state = next((each for each in states if isinstance(each, str) and _SQLSTATE.fullmatch(each)), None)
    if state is not None:
        return _SQLSTATE_PASSING.fullmatch(state) is not None
    if not packages.isdisjoint(_MYSQL):
        number = attribute(error, "errno") or first
        return number in _MYSQL_PASSING if isinstance(number, int) else None
    if not packages.isdisjoint(_SQL_CLIENTS) and type(error).__name__ == "OperationalError":
        return True  # without a state: the server was not reached, or its connection was lost
    return None


def _mcp_verdict(error: BaseException) -> bool | None:
    if type(error).__name__.lower() != "mcperror":
        return None
    code = attribute(attribute(error, "error"), "code")
    return code in _MCP_PASSING if isinstance(code, int) else None


def _curl_verdict(error: BaseException) -> bool | None:
    if _CURL.isdisjoint(kind.__module__.split(".")[0] for kind in type(error).__mro__):
        return None
    numbers = (attribute(error, "code"), error.args[0] if error.args else None)
    number = next((each for each in numbers if isinstance(each, int)), None)
    return number in _CURL_PASSING if number is not None else None


def _worded_verdict(error: BaseException) -> bool | None:
    """Judge an HTTP error without its response, as one that crossed processes, by the status that its text begins."""
    text = error.args[0] if error.args else None
    status = status_in(type(error).__name__, text) if isinstance(text, str) else None
    return None if status is None else status in STATUSES


def status_in(name: str, words: str) -> int | None:
    """Return the HTTP status in the message of an error of this class name; ``None`` if there is none."""
    found = (
        re.search(r"\b[45]\d\d\b", words) if name.endswith(("HTTPStatusError", "HTTPError", "StatusError")) else None
    )
    return None if found is None else int(found[0])


def attribute(holder: Any, name: str) -> Any:
    """Return an attribute of an object of a foreign class; ``None`` if there is none, or reading it fails."""
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
