"""Who may look: a local name without a token, everyone else with it; the same for the pages' own connection."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from verl_atpo.view import page
from verl_atpo.view.access import COOKIE, Access, PagePolicy, is_loopback


async def ask(
    token: str | None,
    host: str = "localhost:8093",
    query: str = "",
    cookie: str = "",
    kind: str = "http",
    origin: str = "",
) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the request came through, and what was sent back."""
    passed, sent = [], []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", host.encode()), (b"cookie", cookie.encode())]
    headers += [(b"origin", origin.encode())] * bool(origin)
    scope = {"type": kind, "headers": headers, "query_string": query.encode()}
    await Access(behind, token)(scope, None, send)
    return bool(passed), sent


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost", True),
        ("localhost:9", True),
        ("127.0.0.1:8093", True),
        ("[::1]:8093", True),
        ("[::1]", True),
        ("evil.example", False),
        ("localhost.evil.example:8093", False),
        ("192.168.0.7:8093", False),
        ("", False),
    ],
)
async def test_without_a_token_only_local_names_pass(host: str, passes: bool, kind: str) -> None:
    assert (await ask(None, host, kind=kind))[0] == passes


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("http://localhost:8093", True),
        ("http://127.0.0.1:8093", True),
        ("http://[::1]:8093", True),
        ("https://evil.example", False),
        ("https://localhost.evil.example:8093", False),
    ],
)
async def test_another_web_page_in_the_same_browser_is_refused(origin: str, passes: bool, kind: str) -> None:
    assert (await ask(None, kind=kind, origin=origin))[0] == passes


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_with_a_token_only_its_bearer_passes(kind: str) -> None:
    for query, cookie, passes in (
        ("token=secret", "", True),
        ("a=b&token=secret", "", True),
        ("", f"x=y; {COOKIE}=secret", True),
        ("", "", False),
        ("token=", "", False),
        ("token=wrong", f"{COOKIE}=wrong", False),
        ("token=s%C3%A9cret", "", False),
        ("", f"{COOKIE}=\x01;;=", False),
    ):
        for host in ("localhost", "elsewhere:80"):
            assert (await ask("secret", host, query, cookie, kind))[0] == passes, (query, cookie)


async def test_a_refusal_says_the_remedy_and_an_admission_is_remembered() -> None:
    _, sent = await ask("secret")
    assert sent[0]["status"] == 403 and b"token" in sent[1]["body"]
    _, sent = await ask("secret", kind="websocket")
    assert sent == [{"type": "websocket.close", "code": 4403}]
    _, sent = await ask("secret", query="token=secret")
    ((name, value),) = sent[0]["headers"]
    assert name == b"set-cookie" and b"secret" in value and b"HttpOnly" in value and b"SameSite=Strict" in value


def test_local_names_are_known() -> None:
    local = [
        host
        for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "0.0.0.0", "::", "a.b")
        if is_loopback(host)
    ]
    assert local == ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]


async def asked(**scope: Any) -> tuple[int, float]:
    """Status of a request, and the seconds that it took."""
    sent: list[dict[str, Any]] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    request = {"type": "http", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")], **scope}
    started = time.perf_counter()
    await Access(behind, "secret")(request, None, send)
    return sent[0]["status"], time.perf_counter() - started


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"headers": [(b"cookie", b"a" * 60_000)]}, 431),
        ({"headers": [(b"cookie", b"a=\\" * 20_000)]}, 431),
        ({"headers": [(b"x" * 10_000, b"y" * 10_000)]}, 431),
        ({"headers": [(b"a", b"b")] * 10_000}, 431),
        ({"query_string": b"token=" + b"%41" * 20_000}, 414),
        ({"query_string": b"a=b&" * 50_000}, 414),
        ({"path": "/tree/" + "x" * 60_000}, 414),
        ({"headers": [(b"content-length", b"9" * 12)]}, 413),
        ({"headers": [(b"content-length", b"9" * 4000)]}, 413),
        ({"headers": [(b"content-length", b"-1")]}, 413),
        ({"headers": [(b"cookie", b"verl_atpo_view=\\" + b"\\0" * 7000)]}, 403),
        ({"headers": [(b"cookie", b";" * 15_000)]}, 403),
        ({"query_string": b"token=wrong&" * 600}, 403),
    ],
)
async def test_a_giant_request_is_refused_at_once(scope: dict[str, Any], status: int) -> None:
    found, seconds = await asked(**scope)
    assert found == status and seconds < 0.1


async def test_a_page_s_own_scripts_carry_the_nonce_and_its_policy_is_strict() -> None:
    sent: list[dict[str, Any]] = []

    async def shown(scope: Any, receive: Any, send: Any) -> None:
        assert not [name for name, _ in scope["headers"] if name == b"accept-encoding"]
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"9"), (b"x", b"y")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<script>1</scr", "more_body": True})
        await send({"type": "http.response.body", "body": b"ipt>&lt;script>"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    nonces = set()
    for _ in range(2):
        sent.clear()
        scope = {"type": "http", "path": "/", "headers": [(b"accept-encoding", b"gzip")]}
        await PagePolicy(shown)(scope, None, send)
        start, body = sent
        headers = dict(start["headers"])
        policy = headers[b"content-security-policy"].decode()
        (nonce,) = re.findall(r"script-src 'self' 'nonce-([^']+)'", policy)
        nonces.add(nonce)
        assert body["body"] == f'<script nonce="{nonce}">1</script>&lt;script>'.encode()
        assert headers[b"content-length"] == str(len(body["body"])).encode() and headers[b"x"] == b"y"
        assert "unsafe-inline" not in policy.split("style-src")[0]
        assert {"object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    assert len(nonces) == 2


def test_only_markup_can_be_shown() -> None:
    for file in sorted((Path(page.__file__).parent).glob("*.py")):
        assert file.name == "page.py" or "ui.html" not in file.read_text(), file
        assert "add_body_html" not in file.read_text() and "add_head_html" not in file.read_text()
    assert page._checked(Markup("<b>")) == "<b>"
    with pytest.raises(TypeError, match="only Markup"):
        page._checked("<b>")  # type: ignore[arg-type]
