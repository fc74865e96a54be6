"""Errors of clients that are not installed here, in the form in which they arrive: class, module, codes, causes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import sqlite3
import ssl
import urllib.error
import xmlrpc.client
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import openai
import pytest
import ray.exceptions
import requests
import urllib3

from tests.assets.fakes import guard
from verl_atpo.failure import ToolOutage, is_outage, is_transient
from verl_atpo.replay.guard import CallCounts

REQUEST = httpx.Request("GET", "http://127.0.0.1")


def client(name: str, *args: object, base: type = Exception, **attributes: object) -> Any:
    """Make an error of the class with this dotted name."""
    module, _, last = name.rpartition(".")
    error = type(last, (base,), {"__module__": module})(*args)
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


def aws(code: str, status: int) -> Any:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return client("botocore.exceptions.ClientError", code, response=response)


def streamed(kind: str) -> Exception:
    body = {"type": "error", "error": {"type": kind, "message": kind}}
    return anthropic.APIStatusError(kind, response=httpx.Response(200, request=REQUEST), body=body)


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class CloseCode:
    """In the form of an enum of close codes, whose names are no gRPC codes."""

    name = "ABNORMAL_CLOSURE"


class BaseExceptionGroup(Exception):
    """In the form of Python 3.11's, and of its backport's."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("tasks")
        self.exceptions = exceptions


CERTIFICATE = ssl.SSLCertVerificationError("self-signed")
REFUSED = urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.SSLError(CERTIFICATE))  # type: ignore[arg-type]
CUT = urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.SSLError(ssl.SSLEOFError()))  # type: ignore[arg-type]
OPERATIONAL = type("OperationalError", (Exception,), {"__module__": "psycopg2"})
PASSING = {
    "anthropic, overload after a 200": streamed("overloaded_error"),
    "openai, error in a stream": openai.APIError("x", REQUEST, body={"type": "server_error", "code": None}),
    "genai, rate": client("google.genai.errors.ClientError", code=429, status="RESOURCE_EXHAUSTED"),
    "408": client("openai.APIStatusError", status_code=408),
    "Cloudflare": client("httpx.HTTPStatusError", response=SimpleNamespace(status_code=520)),
    "tornado's time-out": client("tornado.httpclient.HTTPClientError", code=599),
    "XML-RPC": xmlrpc.client.ProtocolError("url", 503, "busy", {}),
    "AWS, throttled with a 400": aws("ThrottlingException", 400),
    "AWS, throughput": aws("ProvisionedThroughputExceededException", 400),
    "AWS, time-out": aws("RequestTimeout", 400),
    "Azure, not reached": client("azure.core.exceptions.ServiceRequestError"),
    "gRPC, aborted": client("grpc.RpcError", code=lambda: SimpleNamespace(name="ABORTED")),
    "Postgres, not reached": client("psycopg.OperationalError", "connection refused", sqlstate=None),
    "Postgres, stopped": client("psycopg.errors.AdminShutdown", sqlstate="57P01"),
    "Postgres, full": client("psycopg2.errors.TooManyConnections", pgcode="53300"),
    "Postgres, deadlock": client("asyncpg.exceptions.DeadlockDetectedError", sqlstate="40P01"),
    "ODBC, lost": client("pyodbc.OperationalError", "08S01", "link failure"),
    "MySQL, gone": client("pymysql.err.OperationalError", 2006, "gone away"),
    "MySQL, connector": client("mysql.connector.errors.OperationalError", errno=2003),
    "SQLite, locked": client("sqlite3.OperationalError", "database is locked", sqlite_errorcode=5),
    "Mongo": client("pymongo.errors.NetworkTimeout"),
    "Redis cluster": client("redis.exceptions.ClusterDownError"),
    "Cassandra": client("cassandra.cluster.NoHostAvailable"),
    "Kafka": client("kafka.errors.NoBrokersAvailable"),
    "Neo4j": client("neo4j.exceptions.TransientError"),
    "Qdrant": client("qdrant_client.http.exceptions.ResponseHandlingException", source=httpx.ConnectError("refused")),
    "websockets": client("websockets.exceptions.ConnectionClosedError", code=CloseCode()),
    "websocket-client": client("websocket._exceptions.WebSocketConnectionClosedException"),
    "ssh": client("paramiko.ssh_exception.NoValidConnectionsError", None, "unable to connect", base=OSError),
    "asyncssh": client("asyncssh.misc.ConnectionLost"),
    "thrift": client("thrift.transport.TTransport.TTransportException"),
    "mail": client("smtplib.SMTPServerDisconnected", base=OSError),
    "zmq": client("zmq.error.Again", errno=errno.EAGAIN),
    "no processes": BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    "search engine's limit": client("duckduckgo_search.exceptions.RatelimitException"),
    "browser gone": client("playwright._impl._errors.TargetClosedError"),
    "cut download": urllib.error.ContentTooShortError("cut", b""),  # type: ignore[arg-type]
    "cancelled future": concurrent.futures.CancelledError(),
    "MCP, closed": client("mcp.shared.exceptions.McpError", error=SimpleNamespace(code=-32000)),
    "MCP, time-out": client("mcp.shared.exceptions.MCPError", error=SimpleNamespace(code=-32001)),
    "TLS cut": requests.exceptions.SSLError(CUT),
    "a group with cancelled siblings": BaseExceptionGroup(asyncio.CancelledError(), ConnectionError()),
}
LASTING = {
    "Postgres, syntax": client("psycopg.errors.SyntaxError", sqlstate="42601"),
    "Postgres, slow query": client("psycopg2.errors.QueryCanceled", base=OPERATIONAL, pgcode="57014"),
    "MySQL, syntax": client("pymysql.err.ProgrammingError", 1064, "syntax"),
    "MySQL, slow query": client("pymysql.err.OperationalError", 3024, "too long"),
    "SQLite, no table": client("sqlite3.OperationalError", "no such table", sqlite_errorcode=1),
    "AWS, denied": aws("AccessDenied", 403),
    "openai, invalid": openai.APIError("x", REQUEST, body={"type": "invalid_request_error"}),
    "MCP, unknown tool": client("mcp.shared.exceptions.McpError", error=SimpleNamespace(code=-32602)),
    "gRPC, invalid": client("grpc.RpcError", code=lambda: SimpleNamespace(name="INVALID_ARGUMENT")),
    "certificate, requests": requests.exceptions.SSLError(REFUSED),
    "certificate, requests' connection": requests.ConnectionError(REFUSED),
    "certificate, urllib3": REFUSED,
    "certificate, httpx": chained(httpx.ConnectError("certificate"), CERTIFICATE),
    "no element in time": client("playwright._impl._errors.TimeoutError"),
    "the model's cell": client("nbclient.exceptions.CellTimeoutError", base=TimeoutError),
    "the model's function": client("timeout_decorator.timeout_decorator.TimeoutError", base=AssertionError),
    "the model's sandboxed command": client("e2b.exceptions.TimeoutException"),
    "a rule of a game": client("game.InvalidConnectionError"),
    "a group with a bug": BaseExceptionGroup(ConnectionError(), KeyError("board")),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_what_may_pass(error):
    assert is_transient(error) and is_outage(error)


@pytest.mark.parametrize("error", LASTING.values(), ids=LASTING)
def test_what_will_only_come_again(error):
    assert not is_transient(error) and not is_outage(error)


def test_a_locked_database_is_known_by_its_code(tmp_path: Path):
    file = tmp_path / "game.sqlite"
    with sqlite3.connect(file, timeout=0) as owner:
        owner.execute("CREATE TABLE board (x)")
        owner.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked") as locked:
            sqlite3.connect(file, timeout=0).execute("SELECT * FROM board")
        with pytest.raises(sqlite3.OperationalError, match="no such") as missing:
            owner.execute("SELECT * FROM absent")
    assert is_transient(locked.value) and not is_transient(missing.value)


@pytest.mark.parametrize("error", [ray.exceptions.ActorDiedError(), ray.exceptions.WorkerCrashedError()])
async def test_a_tool_whose_ray_actor_died_is_out(error):
    async def live() -> None:
        raise error

    with pytest.raises(ToolOutage, match="'browser' is out after 1 attempt"):
        await guard().call("browser", live, CallCounts(), retry=True)
