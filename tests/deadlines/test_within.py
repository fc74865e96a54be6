"""Deadlines that need no cancellation, threads that nobody shares, and tasks that cannot end the event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest

from tests.assets.fakes import SCHEMA, FakeEngine, guard
from verl_atpo.deadlines import within as module
from verl_atpo.deadlines.activity import Activity, running
from verl_atpo.deadlines.containment import contain_tasks
from verl_atpo.deadlines.threads import in_thread
from verl_atpo.deadlines.within import within
from verl_atpo.failure import ExitError, StrayCancellation, ToolOutage, is_outage, is_transient
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.guard import CallCounts
from verl_atpo.replay.tools import ToolSession


async def test_what_is_done_in_time_comes_back():
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await within(5.0, Activity("work"), work()) == 7
    assert await within(None, Activity("work"), work()) == 7
    assert running() == []


async def test_what_swallows_its_cancellation_is_left_behind_and_listed_until_it_ends(monkeypatch, caplog):
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    over = asyncio.Event()

    async def stubborn() -> None:
        while not over.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeoutError, match=r"A tool took longer than 0.05 s"):
        await within(0.05, Activity("A tool"), stubborn())
    (left,) = running()
    assert left.abandoned and "stubborn" in left.stack() and "A tool still runs though nothing waits" in caplog.text
    over.set()
    await asyncio.sleep(0.05)
    assert running() == []


async def test_a_cancelled_run_cancels_what_it_awaits_and_waits_for_its_end():
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append(1)

    task = asyncio.create_task(within(None, Activity("work"), work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1] and running() == []


async def test_a_cancellation_that_nobody_asked_for_is_an_outage_that_may_pass():
    async def leaks() -> None:
        raise asyncio.CancelledError

    with pytest.raises(StrayCancellation) as raised:
        await within(None, Activity("A client"), leaks())
    assert is_transient(raised.value) and is_outage(raised.value)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_what_would_end_the_process_is_an_error(error):
    async def work() -> None:
        raise error

    def plain() -> None:
        raise error

    with pytest.raises(ExitError, match=f"^{type(error).__name__}"):
        await within(None, Activity("work"), work())
    with pytest.raises(ExitError, match=f"^{type(error).__name__}"):
        await in_thread(plain)


async def test_a_plain_function_may_stop_an_iteration():
    with pytest.raises(ExitError, match=r"^StopIteration"):
        await asyncio.wait_for(in_thread(next, iter(())), 5)


async def test_a_thread_sees_the_context_and_its_activity_shows_where_it_stands():
    release = threading.Event()
    activity = Activity("A tool")
    task = asyncio.create_task(within(None, activity, in_thread(release.wait)))
    await asyncio.sleep(0.05)
    assert activity.thread is not None and "wait" in activity.stack()
    release.set()
    assert await task and activity.thread is None


async def test_hundreds_of_healthy_calls_wait_for_nobody_and_calls_that_hang_stop_none():
    """176 calls of 0.2 s at once, beside six that hang: asyncio's own executor has a handful of threads."""
    release, at_once = threading.Event(), guard(timeout_s=1.0, retries=0, concurrency=256)

    async def hang() -> None:
        with pytest.raises(ToolOutage):
            await at_once.call("slow", lambda: in_thread(release.wait), CallCounts(), retry=True)

    hanging = [asyncio.create_task(hang()) for _ in range(6)]
    started = time.monotonic()
    calls = [at_once.call("t", lambda: in_thread(time.sleep, 0.2), CallCounts(), retry=True) for _ in range(176)]
    await asyncio.gather(*calls)
    assert time.monotonic() - started < 10  # one after another they take 35 s
    await asyncio.gather(*hanging)
    assert sum(activity.abandoned for activity in running()) >= 6
    release.set()
    await asyncio.sleep(0.1)
    assert running() == []


async def test_threads_are_used_again():
    names = {await in_thread(threading.get_ident) for _ in range(20)}
    assert len(names) < 10


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_no_task_ends_the_event_loop(kind):
    loop = asyncio.new_event_loop() if kind == "asyncio" else pytest.importorskip("uvloop").new_event_loop()

    async def leaves() -> None:
        await asyncio.sleep(0)
        sys.exit(3)

    async def main() -> list:
        contain_tasks(asyncio.get_running_loop())
        tasks = [asyncio.create_task(leaves(), name="leaves") for _ in range(2)]
        never = asyncio.create_task(leaves())
        never.cancel()
        fine = asyncio.create_task(asyncio.sleep(0.01, "fine"))
        return await asyncio.gather(*tasks, never, fine, return_exceptions=True)

    try:
        one, two, never, fine = loop.run_until_complete(main())
    finally:
        loop.close()
    assert isinstance(one, ExitError) and isinstance(two, ExitError)
    assert isinstance(never, asyncio.CancelledError) and fine == "fine"


async def test_a_tool_that_is_called_after_the_end_of_the_loop_is_not():
    from verl.tools.function_tool import FunctionTool

    called = []
    session = ReplayClient(FakeEngine(), None)
    tool = FunctionTool(name="look", fn=called.append, tool_schema=SCHEMA)
    async with ToolSession(session, guard()) as tools:
        (bound,) = tools.wrap([tool])
        session.close()
        with pytest.raises(Exception, match="after the loop's end"):
            await bound.call({"at": 1})
    assert called == []
