"""What stands around a tool call."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from verl.tools.schemas import ToolResponse

from tests.assets.fakes import guard
from verl_atpo.config import ObservationCut
from verl_atpo.failure import is_transient
from verl_atpo.replay.guard import CallCounts
from verl_atpo.tools import ToolOutage, TransientToolError


def failing(times: int, error: Exception):
    tries = []

    async def live() -> str:
        tries.append(1)
        if len(tries) <= times:
            raise error
        return "answer"

    return live


@pytest.mark.parametrize(
    "error",
    [TransientToolError("busy"), ConnectionResetError(), TimeoutError(), aiohttp.ServerDisconnectedError()],
)
async def test_transient_errors_are_tried_again(error):
    counts = CallCounts()
    assert is_transient(error)
    assert await guard(retries=2).call("t", failing(2, error), counts, retry=True) == "answer"
    assert counts.retries == 2
    with pytest.raises(ToolOutage, match="'t' is out"):
        await guard(retries=2).call("t", failing(3, error), counts, retry=True)


async def test_other_errors_are_not():
    counts = CallCounts()
    assert not is_transient(ValueError()) and not is_transient(FileNotFoundError())
    with pytest.raises(ValueError, match="no such page"):
        await guard().call("t", failing(1, ValueError("no such page")), counts, retry=True)
    assert counts.retries == 0


async def test_a_time_out_is_an_outage():
    async def live() -> None:
        await asyncio.sleep(60)

    with pytest.raises(ToolOutage):
        await guard(timeout_s=0.01, retries=1).call("t", live, CallCounts(), retry=True)


async def test_calls_of_one_tool_at_once_are_limited():
    running, most = 0, 0

    async def live() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    for limit, expected in [(3, 3), (None, 10)]:
        limited, most = guard(concurrency=limit), 0
        await asyncio.gather(*(limited.call("t", live, CallCounts(), retry=True) for _ in range(10)))
        assert most == expected


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ("tail", "abcd\n[6 tokens left out]"),
        ("head", "[6 tokens left out]\nghij"),
        ("middle", "ab\n[6 tokens left out]\nij"),
    ],
)
def test_long_observations_are_cut_where_asked(cut, expected):
    short = guard(max_observation_tokens=4, observation_cut=ObservationCut(cut))
    assert short.text("abcdefghij") == expected
    assert short.text("abcd") == "abcd"
    assert guard(max_observation_tokens=None).text("x" * 10000) == "x" * 10000


def test_results_of_every_shape_are_bounded_and_harmless():
    short = guard(max_observation_tokens=1000)
    hostile = "a<|end|>b"
    for result in [hostile, ToolResponse(text=hostile), {"page": hostile}, (hostile, 1.0, {}), [hostile]]:
        assert "<|end|>" not in str(short.observation(result))
    assert short.observation(5) == 5 and short.observation({"a": 1}) == '{"a": 1}'
    assert short.observation((hostile, 1.0))[1] == 1.0
    assert short.observation(ToolResponse())[0].text is None
    assert short.text("half a pair: \ud800") == "half a pair: ?"
