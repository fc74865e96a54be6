"""HTTP endpoint of one rollout worker, on loopback only; each trajectory has its own path and key."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

from aiohttp import web
from async_timeout import timeout

from verl_atpo.gateway import anthropic_messages, chat_completions
from verl_atpo.gateway.agents import Access
from verl_atpo.gateway.answers import Answer
from verl_atpo.gateway.errors import ApiError
from verl_atpo.gateway.settings import GatewayConfig
from verl_atpo.gateway.trajectory import Trajectory

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
LAST_ANSWER_S = 1.0
"""Seconds in which the last answer of an ended trajectory is sent, before its connections are closed."""
NO_RETRY = {"x-should-retry": "false"}
"""Header that keeps clients of both APIs from repeating a refused request."""


@dataclasses.dataclass(frozen=True)
class _Open:
    key: str
    trajectory: Trajectory
    connections: set[Any] = dataclasses.field(default_factory=set)


class Endpoint:
    """Serves the trajectories that are open.

    Args:
        config: limits.
        tokenizer: names the tokens whose log-probs are asked for.
    """

    def __init__(self, config: GatewayConfig, tokenizer: Any) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._open: dict[str, _Open] = {}
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port."""
        server = _Server(self._handle, self._config)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        listening = socket.socket()
        listening.bind((HOST, 0))
        self.port = listening.getsockname()[1]
        await web.SockSite(self._runner, listening, backlog=self._config.connections).start()

    async def stop(self) -> None:
        """Listen no more, and drop the connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    @contextlib.asynccontextmanager
    async def serving(self, trajectory: Trajectory) -> AsyncIterator[Access]:
        """Answer a trajectory's requests until the context ends."""
        name, key = secrets.token_urlsafe(9), f"sk-{secrets.token_urlsafe(24)}"
        opened = self._open[name] = _Open(key, trajectory)
        try:
            yield Access(f"http://{HOST}:{self.port}/{name}/v1", key)
        finally:
            del self._open[name]
            await trajectory.close()
            loop = asyncio.get_running_loop()
            for connection in opened.connections:  # clients may keep theirs for ever
                loop.call_later(LAST_ANSWER_S, connection.force_close)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        name, _, path = request.path.lstrip("/").partition("/")
        anthropic = path.startswith("v1/messages") or "anthropic-version" in request.headers
        try:
            trajectory = self._admit(request, name)
            match request.method, path:
                case "GET", "v1/models":
                    return _json(200, chat_completions.models())
                case "POST", "v1/chat/completions":
                    return await self._chat(request, trajectory)
                case "POST", "v1/messages":
                    return await self._anthropic(request, trajectory)
                case _:
                    raise ApiError(
                        404,
                        f"{request.method} /{path} is not served: expected POST /v1/chat/completions, POST "
                        "/v1/messages or GET /v1/models. Remedy: let the client use chat completions.",
                    )
        except Exception as raised:
            error = raised if isinstance(raised, ApiError) else self._unexpected(raised)
            body = anthropic_messages.error_body(error) if anthropic else chat_completions.error_body(error)
            return _json(error.status, body, NO_RETRY)

    @staticmethod
    def _unexpected(error: Exception) -> ApiError:
        """Log an error of this endpoint, and make its refusal."""
        logger.error("A request could not be answered.", exc_info=error)
        return ApiError(500, f"The endpoint failed: {type(error).__name__}: {error}")

    def _admit(self, request: web.BaseRequest, name: str) -> Trajectory:
        """Return the trajectory of a request; without its key nobody learns whether it exists."""
        sent = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        opened = self._open.get(name)
        if opened is None or not hmac.compare_digest(sent.encode(), opened.key.encode()):
            raise ApiError(
                401, "The API key is not that of this base URL's trajectory, or it has ended.", code="invalid_api_key"
            )
        gone = {each for each in opened.connections if each.transport is None}
        opened.connections.difference_update(gone)
        opened.connections.add(request.protocol)
        return opened.trajectory

    async def _chat(self, request: web.BaseRequest, trajectory: Trajectory) -> web.StreamResponse:
        body = await self._body(request)
        ask = chat_completions.read_request(body)
        wanted = chat_completions.wants_log_probs(body)
        answer = await trajectory.answer(ask)
        log_probs = self._log_probs(answer) if wanted else None
        if not body.get("stream"):
            return _json(200, chat_completions.completion(answer, ask, log_probs))
        chunks = chat_completions.chunks(answer, ask, log_probs, chat_completions.wants_usage(body))
        return await _stream(request, (*(_data(chunk) for chunk in chunks), b"data: [DONE]\n\n"))

    async def _anthropic(self, request: web.BaseRequest, trajectory: Trajectory) -> web.StreamResponse:
        body = await self._body(request)
        ask = anthropic_messages.read_request(body)
        answer = await trajectory.answer(ask)
        if not body.get("stream"):
            return _json(200, anthropic_messages.completion(answer, ask))
        events = anthropic_messages.events(answer, ask)
        return await _stream(request, (f"event: {event['type']}\n".encode() + _data(event) for event in events))

    async def _body(self, request: web.BaseRequest) -> Any:
        """Read a request's JSON within the limits of time and size."""
        try:
            async with timeout(self._config.read_s):
                raw = await request.read()
        except asyncio.TimeoutError:
            raise ApiError(408, f"The request's body did not arrive within {self._config.read_s:g} s.") from None
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(413, f"The request is longer than {self._config.request_bytes} bytes.") from None
        try:
            body = json.loads(raw)
            return _paired(body) if b"\\ud" in raw or b"\\uD" in raw else body
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"The request's body is not valid JSON: {error}") from None

    def _log_probs(self, answer: Answer) -> list[dict[str, Any]]:
        if answer.log_probs is None:
            raise ApiError(
                400,
                "logprobs=True: the engine returns none. Remedy: actor_rollout_ref.rollout.calculate_log_probs=True.",
                param="logprobs",
            )
        pieces = self._tokenizer.batch_decode([[token] for token in answer.sampled])
        return [
            {"token": piece, "logprob": log_prob, "bytes": list(piece.encode()), "top_logprobs": []}
            for piece, log_prob in zip(pieces, answer.log_probs, strict=True)
        ]


class _Server(web.Server):
    """aiohttp's server with a limit on connections and on the size of requests."""

    def __init__(self, handler: Any, config: GatewayConfig) -> None:
        super().__init__(handler, request_factory=self._request, handler_cancellation=True, access_log=None)
        self._config = config

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        size = self._config.request_bytes
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=size)

    def __call__(self) -> Any:
        if len(self.connections) >= self._config.connections:
            return _Busy()
        return super().__call__()


class _Busy(asyncio.Protocol):
    """Refuses a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the reason and close."""
        assert isinstance(transport, asyncio.Transport)
        error = ApiError(503, "Too many connections at a time; close those that are not used.")
        body = json.dumps(chat_completions.error_body(error)).encode()
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        transport.close()


def _paired(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no tokenizer takes; programs that cut texts make them."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_paired(each) for each in value]
    if isinstance(value, dict):
        return {_paired(name): _paired(each) for name, each in value.items()}
    return value


def _json(status: int, body: Any, headers: dict[str, str] | None = None) -> web.Response:
    text = json.dumps(body, ensure_ascii=False)
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


def _data(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


async def _stream(request: web.BaseRequest, parts: Iterable[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    await response.write_eof()
    return response
