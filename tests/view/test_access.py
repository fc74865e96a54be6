"""Who may look: a local name without a token, everyone else with it; the same for the pages' own connection."""

from __future__ import annotations

from typing import Any

import pytest

from verl_atpo.view.access import COOKIE, Access, is_loopback


async def ask(
    token: str | None, host: str = "localhost:8093", query: str = "", cookie: str = "", kind: str = "http"
) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the request came through, and what was sent back."""
    passed, sent = [], []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", host.encode()), (b"cookie", cookie.encode())]
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
