"""HTTP servers for tests of the search tool: one that misbehaves as told, one written from Search-R1's description."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from aiohttp import web
from fastapi import FastAPI
from pydantic import BaseModel

Behaviour = Callable[[web.Request, list[str]], Awaitable[web.StreamResponse]]


def hits(query: str) -> list[dict[str, Any]]:
    """One passage that names the query."""
    return [{"document": {"id": "7", "contents": f'"About {query}"\nall of {query}'}, "score": 1.5}]


async def fine(request: web.Request, queries: list[str]) -> web.StreamResponse:
    """The right answer."""
    return web.json_response({"result": [hits(query) for query in queries]})


async def slow(request: web.Request, queries: list[str]) -> web.StreamResponse:
    """No answer in time."""
    await asyncio.sleep(5)
    return await fine(request, queries)


async def dropped(request: web.Request, queries: list[str]) -> web.StreamResponse:
    """Closes the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def cut_off(request: web.Request, queries: list[str]) -> web.StreamResponse:
    """Closes the connection in the middle of the answer."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"result"')
    assert request.transport is not None
    request.transport.close()
    return response


def status(code: int) -> Behaviour:
    """An error."""

    async def behave(request: web.Request, queries: list[str]) -> web.StreamResponse:
        return web.Response(status=code, text="out of order")

    return behave


def says(text: str) -> Behaviour:
    """200 with this body."""

    async def behave(request: web.Request, queries: list[str]) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    return behave


class ScriptedServer:
    """Behaves in the given ways, one request after the other, then rightly; ``requests`` holds the queries of each."""

    def __init__(self, *behaviours: Behaviour, port: int = 0) -> None:
        self.requests: list[list[str]] = []
        self._behaviours = list(behaviours)
        self._port = port

    async def __aenter__(self) -> ScriptedServer:
        app = web.Application()
        app.router.add_post("/retrieve", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        queries = (await request.json())["queries"]
        self.requests.append(queries)
        return await (self._behaviours.pop(0) if self._behaviours else fine)(request, queries)


class _Question(BaseModel):
    queries: list[str]
    topk: int | None = None
    return_scores: bool = False


def search_r1_app(always_without_scores: bool) -> FastAPI:
    """Search-R1's interface as its client and documentation describe it.

    Args:
        always_without_scores: answer as a server that was started before scores were introduced.
    """
    app = FastAPI()

    @app.post("/retrieve")
    def retrieve(question: _Question) -> dict[str, Any]:
        documents = [
            [{"id": str(n), "contents": f'"Title {n}"\n{query}'} for n in range(question.topk or 1)]
            for query in question.queries
        ]
        if always_without_scores or not question.return_scores:
            return {"result": documents}
        return {"result": [[{"document": each, "score": 0.5} for each in found] for found in documents]}

    return app


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of ``app``, served by a thread."""
    address = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{address.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
