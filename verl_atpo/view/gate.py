"""Who may look: everyone on this machine under a local name, elsewhere only who has the token."""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

COOKIE = "verl_atpo_view"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine under a name that no other can have."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Gate:
    """ASGI middleware in front of pages, files and the pages' own connection.

    Without a token only requests to a local name pass, so that no web page reaches the viewer through a name of its
    own that resolves to this machine. With a token, whoever brings it once (``?token=...``) keeps it in a cookie.

    Args:
        app: what stands behind.
        token: the token, or ``None``.
    """

    def __init__(self, app: Any, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let through, or refuse with 403 and the remedy."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._token is None:
            host = headers.get("host", "")
            if is_loopback(host if host.endswith("]") else host.rpartition(":")[0] or host):
                await self._app(scope, receive, send)
            else:
                await _refuse(scope, send, "This viewer answers to localhost only.")
        elif self._matches(_cookie(headers.get("cookie", ""))):
            await self._app(scope, receive, send)
        elif self._matches(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]):
            await self._app(scope, receive, self._remembering(send))
        else:
            await _refuse(scope, send, "This viewer needs its token: open the address that it printed, ?token=...")

    def _matches(self, offered: str) -> bool:
        return self._token is not None and hmac.compare_digest(offered.encode(), self._token.encode())

    def _remembering(self, send: Any) -> Any:
        async def with_cookie(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                message = {**message, "headers": [*message.get("headers", []), (b"set-cookie", cookie.encode())]}
            await send(message)

        return with_cookie


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def _refuse(scope: dict[str, Any], send: Any, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
