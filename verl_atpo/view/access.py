"""Access to the viewer: local names or a token, small requests, and pages that run the viewer's own scripts only."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

COOKIE = "verl_atpo_view"
LARGEST_HEADERS = 16 << 10
"""Bytes of all headers of a request; cookies of other services on localhost are among them."""
LARGEST_ADDRESS = 8 << 10
LARGEST_BODY = 1 << 20
STATIC = "/_nicegui"
"""Addresses of files that never differ, which are sent unchanged."""

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is this machine under a name that no other can have."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return a host without its port."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host


class Access:
    """ASGI middleware in front of pages, files and the pages' own connection.

    Requests that are too large are refused before anything of them is parsed. Without a token only requests to a local
    name pass, and of web pages' requests only the viewer's own: no other page reaches the viewer, neither through a
    name of its own that resolves to this machine nor by a web socket, which browsers open to any host. With a token,
    whoever brings it once (``?token=...``) keeps it in a cookie.

    Args:
        app: the application.
        token: the token, or ``None``.
    """

    def __init__(self, app: Any, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Let a request through, or refuse it with the reason."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif large := _too_large(scope):
            await _refuse(scope, send, *large)
        elif self._token is None:
            origin = _header(scope, b"origin").partition("://")[2]
            if is_loopback(_name(_header(scope, b"host"))) and (not origin or is_loopback(_name(origin))):
                await self._app(scope, receive, send)
            else:
                await _refuse(scope, send, 403, "This viewer answers to localhost only.")
        elif self._matches(_cookie(_header(scope, b"cookie"))):
            await self._app(scope, receive, send)
        elif self._matches(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]):
            await self._app(scope, receive, self._remembering(send))
        else:
            await _refuse(scope, send, 403, "This viewer needs its token: open the address that it printed, ?token=...")

    def _matches(self, offered: str) -> bool:
        return self._token is not None and hmac.compare_digest(offered.encode(), self._token.encode())

    def _remembering(self, send: Send) -> Send:
        async def with_cookie(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                message = {**message, "headers": [*message.get("headers", []), (b"set-cookie", cookie.encode())]}
            await send(message)

        return with_cookie


def _too_large(scope: Scope) -> tuple[int, str] | None:
    """Return status and reason of a refusal before reading; a websocket's messages are bounded by its server."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    if sum(len(name) + len(value) for name, value in headers) > LARGEST_HEADERS:
        return 431, f"Headers of more than {LARGEST_HEADERS >> 10} KB: delete the cookies of this address."
    if len(scope.get("raw_path") or scope.get("path", "")) + len(scope.get("query_string", b"")) > LARGEST_ADDRESS:
        return 414, f"An address of more than {LARGEST_ADDRESS >> 10} KB."
    length = _header(scope, b"content-length")
    if length and not (length.isdigit() and len(length) < 16 and int(length) <= LARGEST_BODY):
        return 413, f"A body of more than {LARGEST_BODY >> 20} MB."
    return None


def _header(scope: Scope, wanted: bytes) -> str:
    found = next((value for name, value in scope["headers"] if name.lower() == wanted), b"")
    return str(found.decode("latin-1"))


def _cookie(header: str) -> str:
    pairs = (each.strip().partition("=") for each in header.split(";"))
    return next((value.strip('"') for name, _, value in pairs if name == COOKIE), "")


async def _refuse(scope: Scope, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4000 + status})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def policy(nonce: str) -> str:
    """Write the content security policy of a page: scripts of the viewer's files, and those that carry ``nonce``.

    ``unsafe-eval`` is what Vue compiles its templates with; markup that came into a page cannot reach it: neither
    scripts nor handlers (``onerror=...``) of it run, and it fetches and sends nothing.
    """
    return "; ".join((
        "default-src 'self'", f"script-src 'self' 'nonce-{nonce}' 'unsafe-eval'", "script-src-attr 'none'",
        "style-src 'self' 'unsafe-inline'", "img-src 'self' data: blob:", "font-src 'self' data:",
        "connect-src 'self'", "object-src 'none'", "base-uri 'none'",
        "form-action 'none'", "frame-ancestors 'none'",
    ))  # fmt: skip


class PagePolicy:
    """ASGI middleware that gives every page a content security policy, and the page's own scripts its nonce.

    Args:
        app: the application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Pass a request on; the body of a page is rewritten."""
        if scope["type"] != "http" or scope["path"].startswith(STATIC):
            await self._app(scope, receive, send)
            return
        # compressed pages could not be rewritten
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"accept-encoding"]
        page = _Rewritten(send, secrets.token_urlsafe(16))
        await self._app({**scope, "headers": headers}, receive, page.send)


class _Rewritten:
    """Sends a response on: a page when it is complete, everything else as it comes."""

    def __init__(self, send: Send, nonce: str) -> None:
        self._send, self._nonce = send, nonce
        self._start: dict[str, Any] | None = None
        self._body = b""

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            if kinds and kinds[0].startswith(b"text/html"):
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_page(self._start)
            return
        await self._send(message)

    async def _send_page(self, start: dict[str, Any]) -> None:
        # NiceGUI escapes "<" in everything that it puts into a page, so these are the scripts of its own template
        body = self._body.replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        dropped = (b"content-length", b"content-security-policy")
        headers = [pair for pair in start["headers"] if pair[0].lower() not in dropped] + [
            (b"content-length", str(len(body)).encode()),
            (b"content-security-policy", policy(self._nonce).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
