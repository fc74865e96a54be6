"""Class names under which clients that are not installed here raise transient errors."""

from __future__ import annotations

import re

_CONNECTION = re.compile(
    r"\w*(Connections?|Connect|Network|Transport|Communication|Timeout|TimedOut|RemoteProtocol)(Error|Exception)"
    r"|\w*(ConnectionClosed(OK)?|ConnectionLost|CommClosed|StreamClosed|StreamLost|Disconnected|OperationTimedOut"
    r"|EmptyPool|FullPool|ClosedPool|NoResponders|TooSlow|ChunkedEncoding"
    r"|ClientPayload|IncompleteRead|AutoReconnect|BusyLoading|BrokenResource|ClosedResource|EndOfStream)"
    r"(Error|Exception)?"
    r"|\w*(Timeout|TimedOut)"
)
"""Lost connections and time-outs."""
_OVERLOAD = re.compile(
    r"\w*(Unavailable|Overloaded|TooManyRequests|TooManyConnections|RateLimit|RateLimited|RateLimitExceeded|Throttling"
    r"|Throttled|BadGateway|GatewayTimeout|DeadlineExceeded|ResourceExhausted|Transient|Retryable|TryAgain|ClusterDown"
    r"|MasterDown|NoBrokersAvailable|NoHostAvailable|NoServers|Http(429|502|503|504))(Error|Exception)?",
    re.IGNORECASE,
)
"""Overload, independent of the HTTP status."""
_OTHERS = frozenset(
    {
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "botocore.exceptions.ResponseStreamingError",
        "ftplib.error_temp",
        "httplib2.ServerNotFoundError",
        "imaplib.IMAP4.abort",
        "neo4j.exceptions.SessionExpired",
        "playwright._impl._errors.TargetClosedError",
        "requests.exceptions.RetryError",
        "selenium.common.exceptions.InvalidSessionIdException",
        "tavily.errors.UsageLimitExceededError",
        "urllib3.exceptions.MaxRetryError",
        "urllib3.exceptions.ProtocolError",
        "websocket._exceptions.WebSocketAddressException",
    }
)
_REFUSED = re.compile(
    r"UnsupportedProtocol|LocalProtocolError|.*Certificate.*|.*CertVerification.*|InvalidURL|InvalidSchema|MissingSchema|LocationValueError"
    r"|Invalid\w*Connection\w*"
)
_RUN_BY_MODELS = """
    playwright selenium subprocess func_timeout wrapt_timeout_decorator timeout_decorator stopit nbclient math_verify
    latex2sympy2_extended e2b modal daytona pexpect
"""
_MODEL_TIMEOUTS = frozenset(_RUN_BY_MODELS.split())
"""Packages whose time-outs mean that the model's action did not happen in time, not that a server is down."""
_STATUS_ERRORS = frozenset({"APIStatusError", "APIError"})
"""Base classes of generated API clients, whose ``InternalServerError`` is transient."""


def dotted(kind: type) -> str:
    """Return module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def named_outage(name: str) -> bool:
    """Return whether a class of this (dotted) name is a transient error of a client."""
    last = name.rpartition(".")[2]
    if _is_model_timeout(name) or _REFUSED.fullmatch(last):
        return False
    return name in _OTHERS or any(names.fullmatch(last) for names in (_CONNECTION, _OVERLOAD))


def is_refused(kind: type) -> bool:
    """Return whether errors of this class are caused by the request or the setup, such as a wrong certificate."""
    return any(_REFUSED.fullmatch(each.__name__) for each in kind.__mro__)


def is_model_timeout(kind: type) -> bool:
    """Return whether errors of this class mean that the model's action took too long."""
    return any(_is_model_timeout(dotted(each)) for each in kind.__mro__)


def is_overload(kind: type) -> bool:
    """Return whether errors of this class mean overload, whatever HTTP status they carry."""
    names = {each.__name__ for each in kind.__mro__}
    if "InternalServerError" in names and not names.isdisjoint(_STATUS_ERRORS):
        return True
    return any(map(_OVERLOAD.fullmatch, names))


def _is_model_timeout(name: str) -> bool:
    package, _, last = name.rpartition(".")
    return package.split(".")[0] in _MODEL_TIMEOUTS and re.search("time-?d?out", last, re.IGNORECASE) is not None
