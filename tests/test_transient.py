"""Errors of many clients: which of them may pass, and which are the request's or the code's own."""

from __future__ import annotations

import asyncio
import concurrent.futures.process
import errno
import http.client
import io
import pickle
import socket
import ssl
import subprocess
import tarfile
import urllib.error
from email.message import Message

import aiohttp
import anthropic
import grpc
import httpx
import openai
import pytest
import requests
import urllib3
import websockets.exceptions
from hypothesis import given
from hypothesis import strategies as st

from verl_atpo.failure import EngineOutage, ToolOutage, TrajectoryBug, TransientToolError, is_outage, is_transient

REQUEST = httpx.Request("GET", "http://127.0.0.1")


def requests_error(status: int) -> Exception:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} for url", response=response)


def httpx_error(status: int) -> Exception:
    return httpx.HTTPStatusError(f"'{status}'", request=REQUEST, response=httpx.Response(status, request=REQUEST))


def urllib_error(status: int) -> Exception:
    return urllib.error.HTTPError("http://127.0.0.1", status, "words", Message(), io.BytesIO())


def aiohttp_error(status: int) -> Exception:
    return aiohttp.ClientResponseError(None, (), status=status)  # type: ignore[arg-type]


def openai_error(kind: type, status: int) -> Exception:
    return kind("words", response=httpx.Response(status, request=REQUEST), body=None)


class RpcError(Exception):
    """In the form of gRPC's: ``code()`` returns an enum member."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._name = name

    def code(self) -> object:
        return type("Code", (), {"name": self._name, "value": (14, "words")})()


class ClientError(Exception):
    """In the form of botocore's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.response = {"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status}}


class OverloadedError(Exception):
    status_code = 500


class AutoReconnect(Exception):
    """pymongo's."""


class Sulking(Exception):
    """Attributes that raise when they are read."""

    @property
    def status(self) -> int:
        raise RuntimeError("not now")

    code = response = status


class RequestsError(Exception):
    """curl_cffi's: curl's own number."""

    code = 28


class CurlError(Exception):
    """pycurl's: number and words."""


RequestsError.__module__, CurlError.__module__ = "curl_cffi.requests.errors", "pycurl"


def grpc_error(method: str) -> Exception:
    """What gRPC's client raises where nobody listens."""
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as raised:
        getattr(channel, method)("/a/b")(b"x", timeout=5)
    return raised.value


def grpc_not_ready() -> Exception:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.FutureTimeoutError) as raised:
        grpc.channel_ready_future(channel).result(timeout=0.01)
    return raised.value


def anthropic_error(status: int, kind: str) -> Exception:
    """Also of a stream that began well."""
    body = {"type": "error", "error": {"type": kind}}
    return anthropic.APIStatusError("words", response=httpx.Response(status, request=REQUEST), body=body)


def group(*errors: BaseException) -> BaseException:
    return type("ExceptionGroup", (BaseExceptionGroup,), {"exceptions": errors})()


BaseExceptionGroup = type("BaseExceptionGroup", (Exception,), {})
"""In the form of Python 3.11's, and of its backport's."""


PASSING = {
    "gRPC, nobody listens": grpc_error("unary_unary"),
    "gRPC, not ready": grpc_not_ready(),
    "anthropic overloaded": anthropic_error(529, "overloaded_error"),
    "anthropic overloaded in a stream": anthropic_error(200, "overloaded_error"),
    "websocket closed": websockets.exceptions.ConnectionClosedError(None, None),
    "pycurl": CurlError(7, "Failed to connect"),
    "curl_cffi": RequestsError("timed out"),
    "an answer in words": requests.HTTPError("503 Server Error: Service Unavailable for url"),
    "no connection in the pool": urllib3.exceptions.EmptyPoolError(None, "full"),  # type: ignore[arg-type]
    "a connection after a time-out": http.client.CannotSendRequest("Request-sent"),
    "TLS not ready": ssl.SSLWantReadError(),
    "TLS cut by the system": ssl.SSLSyscallError(),
    "workers that died": concurrent.futures.process.BrokenProcessPool("a child died"),
    "no memory for a process": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "time-outs in a group": group(asyncio.TimeoutError(), group(TimeoutError())),
    "a cancelled task beside": group(asyncio.CancelledError(), ConnectionError()),
    "trio": type("TooSlowError", (Exception,), {})(),
    "pika": type("StreamLostError", (Exception,), {})(),
    "rpyc": type("AsyncResultTimeout", (Exception,), {})(),
    "refused": ConnectionRefusedError(),
    "time-out": TimeoutError(),
    "asyncio time-out": asyncio.TimeoutError(),
    "host not found": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "no route": OSError(errno.EHOSTUNREACH, "No route to host"),
    "no descriptors": OSError(errno.EMFILE, "Too many open files"),
    "TLS cut": ssl.SSLEOFError(),
    "cut answer": http.client.IncompleteRead(b""),
    "cut stream": asyncio.IncompleteReadError(b"", 5),
    "strange answer": http.client.BadStatusLine("x"),
    "urllib refused": urllib.error.URLError(ConnectionRefusedError()),
    "urllib no host": urllib.error.URLError(socket.gaierror(-2, "unknown")),
    "requests connection": requests.ConnectionError("refused"),
    "requests cut": requests.exceptions.ChunkedEncodingError("cut"),
    "requests time-out": requests.ReadTimeout(),
    "urllib3": urllib3.exceptions.ProtocolError("cut"),
    "httpx": httpx.RemoteProtocolError("cut"),
    "httpx read": httpx.ReadError("cut"),
    "aiohttp": aiohttp.ServerDisconnectedError(),
    "aiohttp payload": aiohttp.ClientPayloadError(),
    "openai connection": openai.APIConnectionError(request=REQUEST),
    "openai time-out": openai.APITimeoutError(request=REQUEST),
    "openai rate": openai_error(openai.RateLimitError, 429),
    "openai server": openai_error(openai.InternalServerError, 500),
    "gRPC": RpcError("UNAVAILABLE"),
    "botocore": ClientError(503),
    "overload by name": OverloadedError(),
    "by name alone": AutoReconnect(),
    "says so": TransientToolError("busy"),
    **{
        f"{make.__name__} {status}": make(status)
        for make in (requests_error, httpx_error, urllib_error, aiohttp_error)
        for status in (429, 502, 503, 504)
    },
}
LASTING = {
    "curl's unknown scheme": CurlError(1, "Unsupported protocol"),
    "an answer of 404 in words": requests.HTTPError("404 Client Error: Not Found for url"),
    "one bug in a group": group(ConnectionError(), group(KeyError("board"))),
    "an end of input": EOFError("EOF when reading a line"),
    "value": ValueError("no such page"),
    "key": KeyError("board"),
    "no file": FileNotFoundError(errno.ENOENT, "No such file"),
    "no permission": PermissionError(errno.EACCES, "Permission denied"),
    "disk full": OSError(errno.ENOSPC, "No space left on device"),
    "no archive": tarfile.ReadError("not a gzip file"),
    "the model's program": subprocess.TimeoutExpired("sleep 9", 1.0),
    "certificate": ssl.SSLCertVerificationError("expired"),
    "unknown scheme": httpx.UnsupportedProtocol("foo://"),
    "urllib's unknown scheme": urllib.error.URLError("unknown url type: foo"),
    "bad request": openai_error(openai.BadRequestError, 400),
    "not found": openai_error(openai.NotFoundError, 404),
    "gRPC refused": RpcError("INVALID_ARGUMENT"),
    "botocore refused": ClientError(403),
    "attributes that raise": Sulking(),
    "left": SystemExit(503),
    "bug": TrajectoryBug("mend it"),
    **{
        f"{make.__name__} {status}": make(status)
        for make in (requests_error, httpx_error, urllib_error, aiohttp_error)
        for status in (400, 401, 404, 422, 500, 501)
    },
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_what_may_pass(error: Exception) -> None:
    assert is_transient(error) and is_outage(error)


@pytest.mark.parametrize("error", LASTING.values(), ids=LASTING)
def test_what_will_only_come_again(error: Exception) -> None:
    assert not is_transient(error) and not is_outage(error)


@pytest.mark.parametrize("kind", ["ToolOutage", "EngineOutage"])
def test_an_outage_is_not_tried_again_by_the_guard(kind: str) -> None:
    error = {"ToolOutage": ToolOutage, "EngineOutage": EngineOutage}[kind]("gone")
    assert is_outage(error) and not is_transient(error)


def wrapped(error: BaseException, how: str) -> BaseException:
    """``error`` as the origin of another one."""
    try:
        try:
            raise error
        except BaseException as caught:
            if how == "cause":
                raise RuntimeError("the tool failed") from caught
            if how == "context":
                raise RuntimeError("the tool failed")  # noqa: B904
            if how == "hidden":
                raise RuntimeError("the tool failed") from None
            raise RuntimeError("the tool failed", caught) from None
    except BaseException as outer:
        return outer


@given(st.sampled_from(sorted(PASSING)), st.lists(st.sampled_from(["cause", "context", "argument"]), max_size=5))
def test_the_origin_counts_however_often_it_is_wrapped(name: str, how: list[str]) -> None:
    error: BaseException = PASSING[name]
    for each in how:
        error = wrapped(error, each)
    assert is_transient(error) and is_outage(error)


@given(st.sampled_from(sorted(set(LASTING) - {"left"})), st.lists(st.sampled_from(["cause", "context"]), max_size=5))
def test_wrapping_makes_no_outage(name: str, how: list[str]) -> None:
    error: BaseException = LASTING[name]
    for each in how:
        error = wrapped(error, each)
    assert not is_transient(error) and not is_outage(error)


def test_an_author_who_hides_the_origin_or_names_a_bug_is_believed() -> None:
    assert not is_transient(wrapped(ConnectionError(), "hidden"))
    refused = httpx_error(404)
    refused.__context__ = ConnectionError()
    assert not is_transient(refused)  # the second server has answered
    bug = TrajectoryBug("mend it")
    bug.__cause__ = ConnectionError()
    assert not is_outage(bug)


def test_a_group_passes_if_all_of_it_does() -> None:
    class BaseExceptionGroup(Exception):  # the form of Python 3.11's, and of its backport's
        def __init__(self, *exceptions: BaseException) -> None:
            self.exceptions = exceptions

    assert is_transient(BaseExceptionGroup(ConnectionError(), httpx.ReadTimeout("")))
    assert not is_transient(BaseExceptionGroup(ConnectionError(), KeyError("board")))


def test_causes_that_go_round_in_circles_end() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not is_transient(one)


class TwoArguments(Exception):
    """Cannot be unpickled."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(what)


@pytest.mark.parametrize(
    ("raised", "out"),
    [
        (openai_error(openai.RateLimitError, 429), True),
        (httpx_error(503), True),
        (httpx_error(404), False),
        (TwoArguments("board", where="here"), False),
        (ConnectionResetError("cut"), True),
        (KeyError("board"), False),
        (ToolOutage("gone"), True),
    ],
)
def test_errors_of_remote_workers_are_judged_by_what_they_were(raised: Exception, out: bool) -> None:
    """Ray hands on the text of an error that cannot be pickled; the reward function runs in such a worker."""
    from ray.exceptions import RayError, RayTaskError, UnserializableException

    try:
        raise raised
    except Exception as error:
        import traceback

        text = "ray::Worker.run() (pid=1)\n" + traceback.format_exc()
        remote = RayTaskError("run", text, error, proctitle="p", pid=1, ip="127.0.0.1")
    arrived = RayError.from_bytes(remote.to_bytes())
    if isinstance(arrived, RayTaskError):
        arrived = arrived.as_instanceof_cause()
    assert is_outage(arrived) is out, (type(arrived), isinstance(arrived, UnserializableException))
    assert pickle.dumps(text)
