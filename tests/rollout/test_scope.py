"""Runs beside one another in one worker of verl's: each sees its own client and tools, and its own end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.assets.fakes import guard
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import Start
from verl_atpo.rollout import scope
from verl_atpo.rollout.scope import RunScopedWorker
from verl_atpo.tools import ToolOutage


class Worker(RunScopedWorker):
    """Without what verl's constructor makes."""

    def __init__(self) -> None:
        self.llm_client, self.tools, self.guard = "engine", [], guard()
        self.rollout_config = SimpleNamespace(response_length=None)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """verl's own methods replaced by ones that say what they see."""

    async def run(self: Worker, sampling_params: dict, trajectory: dict, **kwargs: Any) -> Any:
        before = self.llm_client
        await asyncio.sleep(0)
        inside = await asyncio.create_task(seen_by_a_task(self))
        assert before is self.llm_client is inside and before is not self._llm_client
        return await self._agent_loop_postprocess((before, kwargs["name"]), False, **kwargs)

    async def seen_by_a_task(worker: Worker) -> Any:
        await asyncio.sleep(0)
        return worker.llm_client

    async def publish(self: Worker, output: Any, validate: bool, **kwargs: Any) -> str:
        return f"published {kwargs['name']}"

    monkeypatch.setattr(scope, "check_chain_rows", lambda *args: None)  # there are no rows here
    monkeypatch.setattr(scope, "plain_outputs", lambda returned: returned)
    monkeypatch.setattr(scope._AgentLoopWorker, "_run_agent_loop", run)
    monkeypatch.setattr(scope._AgentLoopWorker, "_agent_loop_postprocess", publish)
    return Worker()


async def test_runs_do_not_meet_and_leave_nothing_behind(worker: Worker):
    async def finish(output: tuple[ReplayClient, str], validate: bool, **kwargs: Any) -> tuple[ReplayClient, str]:
        return output

    runners = [worker.runner({}, {}, {"name": name}, None, finish=finish) for name in "abc"]
    runs = await asyncio.gather(*(runner.run(Start()) for runner in runners))
    assert [name for _, (_, name) in runs] == ["a", "b", "c"]
    assert all(client is session for session, (client, _) in runs)
    assert len({id(session) for session, _ in runs}) == 3
    assert worker.llm_client == "engine" and worker.tools == []


async def test_a_run_reads_the_messages_without_parquets_nulls(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    """A part with the key `image` is an image to many templates, a message with `tool_calls` a call, null or not."""
    parts = [{"type": "text", "text": "what?", "image": None}]
    messages = [{"role": "user", "content": parts, "tool_calls": None}, {"role": "user", "content": None}]
    seen = []

    async def run(self: Worker, sampling_params: dict, trajectory: dict, **kwargs: Any) -> None:
        seen.append(kwargs["raw_prompt"])
        seen[-1][0]["content"].append("changed")

    monkeypatch.setattr(scope._AgentLoopWorker, "_run_agent_loop", run)
    for prompt in (messages, np.array(messages, dtype=object)):
        for _ in range(2):  # what a run changes is its own
            await worker.runner({}, {}, {"raw_prompt": prompt, "name": "x"}, None).run(Start())
    content = [{"type": "text", "text": "what?"}, "changed"]
    assert seen == [[{"role": "user", "content": content}, {"role": "user", "content": None}]] * 4
    assert messages[0] == {"role": "user", "content": parts, "tool_calls": None} and len(parts) == 1


async def test_without_an_end_of_its_own_the_output_is_verls(worker: Worker):
    _, output = await worker.runner({}, {}, {"name": "chain"}, None).run(Start())
    assert output == "published chain"


async def test_what_an_outage_hit_is_not_published(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    async def run(self: Worker, sampling_params: dict, trajectory: dict, **kwargs: Any) -> Any:
        self.llm_client.failure = ToolOutage("gone")
        return await self._agent_loop_postprocess(None, False, **kwargs)

    async def publish(self: Worker, *args: Any, **kwargs: Any) -> None:
        pytest.fail("published")

    monkeypatch.setattr(scope, "check_chain_rows", lambda *args: None)  # there are no rows here
    monkeypatch.setattr(scope._AgentLoopWorker, "_run_agent_loop", run)
    monkeypatch.setattr(scope._AgentLoopWorker, "_agent_loop_postprocess", publish)
    with pytest.raises(ToolOutage, match="gone"):
        await worker.runner({}, {}, {"name": "chain"}, None).run(Start())
    assert worker.llm_client == "engine"
