"""Attacks on the endpoint: refused in words, and the trajectory beside them goes on."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest

from tests.assets.scripted_engine import ScriptedEngine, make_loop, run

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


async def attacked(attack, **settings):
    """Run an agent that attacks its endpoint and then asks; returns what the attack returned."""

    async def agent(task, base_url, api_key):
        found = await attack(base_url, api_key)
        client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
        answer = await client.chat.completions.create(model="m", messages=task.messages)
        return {"found": found, "answer": answer.choices[0].message.content}

    (row,) = await run(make_loop(ScriptedEngine(["Still here."]), agent, **settings))
    assert row.extra_fields["agent_calls"] == 1
    assert row.extra_fields["agent_result"]["answer"] == "Still here."
    return row.extra_fields["agent_result"]["found"]


async def post(url, key, **options):
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    async with aiohttp.ClientSession() as session, session.post(url, headers=headers, **options) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("key", [None, "", "sk-guess", "sk-\u00e9"])
async def test_a_wrong_key(key):
    async def attack(base_url, api_key):
        return [await post(f"{base_url}/chat/completions", key, json=REQUEST)]

    ((status, body),) = await attacked(attack)
    assert status == 401
    assert body["error"]["type"] == "authentication_error"
    assert "API key" in body["error"]["message"]


async def test_the_key_of_another_trajectory():
    accesses = []
    both = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def agent(task, base_url, api_key):
        accesses.append((base_url, api_key))
        if len(accesses) == 2:
            loop.call_soon_threadsafe(both.set)
        while len(accesses) < 2:
            await asyncio.sleep(0.01)
        other = next(key for url, key in accesses if url != base_url)
        status, _ = await post(f"{base_url}/chat/completions", other, json=REQUEST)
        client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
        await client.chat.completions.create(model="m", messages=task.messages)
        return {"status": status}

    engine = ScriptedEngine(["One.", "Two."])
    rows = await asyncio.gather(*(run(make_loop(engine, agent)) for _ in range(2)))
    assert [row.extra_fields["agent_result"]["status"] for (row,) in rows] == [401, 401]


async def test_bodies_that_are_no_request():
    async def attack(base_url, api_key):
        url = f"{base_url}/chat/completions"
        bodies = [b"{", b"", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, json.dumps({"messages": {"a": 1}}).encode()]
        return [await post(url, api_key, data=body) for body in bodies]

    for status, body in await attacked(attack):
        assert status == 400
        assert body["error"]["message"]


async def test_a_long_body():
    async def attack(base_url, api_key):
        url = f"{base_url}/chat/completions"
        long = json.dumps({**REQUEST, "messages": [{"role": "user", "content": "x" * 10_000_000}]})
        return [await post(url, api_key, data=long), await post(url, None, data=long)]

    (status, body), (other, _) = await attacked(attack)
    assert (status, other) == (413, 401)
    assert "8388608 bytes" in body["error"]["message"]


async def test_a_slow_sender():
    async def attack(base_url, api_key):
        url = urlsplit(base_url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        head = f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n"
        writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
        writer.close()
        return answer.decode()

    assert " 408 " in await attacked(attack, read_s=0.5)


async def test_unknown_paths_name_what_is_served():
    async def attack(base_url, api_key):
        return [await post(f"{base_url}/responses", api_key, json={"input": "x"})]

    ((status, body),) = await attacked(attack)
    assert status == 404
    assert "chat completions" in body["error"]["message"]


async def test_five_hundred_connections():
    async def attack(base_url, api_key):
        url = urlsplit(base_url)
        idle = [await asyncio.open_connection(url.hostname, url.port) for _ in range(400)]
        refused = [post(f"{base_url}/chat/completions", f"sk-{number}", json=REQUEST) for number in range(100)]
        found = [status for status, _ in await asyncio.gather(*refused)]
        for _, writer in idle:
            writer.close()
        return found

    assert set(await attacked(attack)) == {401}


async def test_connections_beyond_the_limit():
    async def attack(base_url, api_key):
        url = urlsplit(base_url)
        idle = [await asyncio.open_connection(url.hostname, url.port) for _ in range(20)]
        await asyncio.sleep(0.2)
        found = [await post(f"{base_url}/chat/completions", api_key, json=REQUEST)]
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.2)
        return found

    ((status, body),) = await attacked(attack, connections=20)
    assert status == 503
    assert "connections" in body["error"]["message"]


async def test_it_listens_on_loopback_only():
    async def attack(base_url, api_key):
        port = urlsplit(base_url).port
        with socket.socket() as outside:  # another address of this machine, where there is one
            outside.settimeout(1)
            return outside.connect_ex(("127.0.0.2", port))

    assert await attacked(attack) != 0


async def test_connections_of_an_ended_trajectory_are_closed():
    kept = []

    def agent(task, base_url, api_key):
        url = urlsplit(base_url)
        connection = http.client.HTTPConnection(url.hostname, url.port)
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        connection.request("POST", f"{url.path}/chat/completions", json.dumps(REQUEST), headers)
        connection.getresponse().read()
        kept.append(connection)  # never closed

    await run(make_loop(ScriptedEngine(["Fine."]), agent))
    kept[0].sock.settimeout(5)
    assert await asyncio.to_thread(kept[0].sock.recv, 1) == b""


async def test_an_error_of_the_endpoint_has_the_apis_format(monkeypatch):
    def broken(body):
        raise RuntimeError("broken")

    async def attack(base_url, api_key):
        with monkeypatch.context() as patch:
            patch.setattr("verl_atpo.gateway.chat_completions.read_request", broken)
            return [await post(f"{base_url}/chat/completions", api_key, json=REQUEST)]

    ((status, body),) = await attacked(attack)
    assert status == 500 and body["error"]["type"] == "api_error" and "broken" in body["error"]["message"]
