"""Twelve ways to misbehave, in a tool, a loop or a reward, in trees, chains and validation: nothing waits for ever.

Each ends as an error that the model reads, as an outage, as a bug, or as a run that stops within its limit, with what
made no progress and where. The event loop is a real one, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from types import SimpleNamespace

import pytest

from tests.assets import misbehaving
from tests.assets.misbehaving import PLAIN_TOOL, RAISES, RELEASE, TOOL, WAYS, misbehave, plain_look
from tests.assets.tiny_model import write_model
from tests.assets.worker import Queue, make_worker, prompt
from verl_atpo.config import WatchConfig
from verl_atpo.deadlines import within
from verl_atpo.rollout.health.reward_worker import contained_reward
from verl_atpo.rollout.health.stop import Failures, RunStopped, StopRule

LIMIT_S = 1.5
LONGEST_S = 20.0
"""Within which every case ends; a busy machine takes long for little."""
MODES = {
    "tree": ({"validate": False}, {}),
    "chain": ({"validate": False}, {"__do_sample__": False, "__rollout_n__": 2}),
    "validation": ({"validate": True}, {}),
}
HANGS = ("awaits for ever", "bare except", "swallows cancellation", "hangs in a thread")
ENDS = {
    **{("tool", way): "read" for way in (*RAISES, "StopIteration")},
    **{("tool", way): "outage" for way in ("CancelledError", *HANGS)},
    **{(where, way): "bug" for where in ("loop", "reward") for way in (*RAISES, "StopIteration")},
    **{(where, "CancelledError"): "outage" for where in ("loop", "reward")},
    **{(where, way): "stop" for where in ("loop", "reward") for way in HANGS},
    **{(where, "blocks the loop"): "stop" for where in ("tool", "loop", "reward")},
    **{(where, "leaves tasks"): "fine" for where in ("tool", "loop", "reward")},
}


async def _score() -> float:
    if "reward" in misbehave:
        await misbehave["reward"]()
    return 0.5


class RewardWorker:
    """verl's reward worker in this process, with the user's function contained as there."""

    def __init__(self) -> None:
        score = contained_reward(_score, WatchConfig(warn_s=3600.0))

        async def compute_score(data: object) -> dict:
            return {"reward_score": await score(), "reward_extra_info": {}}

        self.compute_score = SimpleNamespace(remote=compute_score)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    model = write_model(tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        Queue(patch)
        return make_worker(
            model,
            "misbehaving",
            "algorithm.atpo.tools.timeout_s=0.15",
            "algorithm.atpo.tools.retries=0",
            "algorithm.atpo.watch.warn_s=0.2",
            f"algorithm.atpo.watch.limit_s={LIMIT_S}",
            scorer=RewardWorker(),
        )


@pytest.fixture
def case(worker, monkeypatch):
    """Runs a prompt of the worker on an event loop of its own and returns how it ended."""
    monkeypatch.setattr(within, "GRACE_S", 0.1)
    misbehave.clear()
    RELEASE.clear()
    worker._failures, worker._watchdog, worker.has_sampled = Failures(), None, True
    worker.guard.take_totals()
    queue = Queue(monkeypatch)
    threads = []

    def run(mode: str, tool=TOOL) -> tuple[str, Failures, Queue]:
        where, fields = MODES[mode]
        worker._tools = [tool]
        trajectory = {"step": 1, "sample_index": 0, "rollout_n": 0, **where}
        own = worker._run_prompt(prompt("p1", "misbehaving", **fields), {"temperature": 1.0}, trajectory=trajectory)

        over = threading.Event()

        async def with_left_tasks() -> None:
            await own
            await asyncio.sleep(0.05)
            over.set()  # asyncio.run() itself waits for what cannot be cancelled

        threads.append(threading.Thread(target=asyncio.run, args=(with_left_tasks(),), daemon=True))
        threads[0].start()
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            if over.wait(0.02) or (worker._watchdog is not None and worker._watchdog.stuck):
                return *_end(worker), queue
        raise AssertionError("It waits for ever.")

    yield run
    RELEASE.set()
    for thread in threads:
        thread.join(LONGEST_S)
        assert not thread.is_alive()
    misbehaving.tasks.clear()


def _end(worker) -> tuple[str, Failures]:
    stuck = worker._watchdog.stuck
    failures = asyncio.run(worker.failures())
    if stuck is not None:
        return "stop", failures
    if failures.bugs:
        return "bug", failures
    return "fine" if failures.finished else "outage", failures


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("where", "way"), ENDS, ids=str)
def test_it_ends(case, caplog, where, way, mode):
    misbehave[where] = WAYS[way]
    with caplog.at_level(logging.WARNING):
        end, failures, queue = case(mode)
    expected = ENDS[where, way]
    assert end == ("fine" if expected == "read" else expected), failures
    if end == "stop":
        with pytest.raises(RunStopped, match=r"has (made no progress|been blocked) for .*Remedy: ") as stopped:
            StopRule(prompts=8).check([failures])
        assert "misbehaving.py" in str(stopped.value)  # where it stands
        return
    assert queue.status == {"p1": "finished" if end == "fine" else "failure"}
    assert end != "fine" or len(queue.rows["p1"]) in (1, 2, 3)
    if expected == "bug":
        assert (way.split()[-1] in failures.bug or "OwnBase: broken" in failures.bug) and "Remedy" in failures.bug
    if expected == "outage" and where == "tool" and way in ("bare except", "swallows cancellation"):
        assert "still runs though nothing waits for it" in caplog.text and "misbehaving.py" in caplog.text


PLAIN = {**dict.fromkeys((*RAISES, "StopIteration"), "fine"), "CancelledError": "outage", "awaits for ever": "outage"}


@pytest.mark.parametrize(("way", "expected"), PLAIN.items())
def test_a_plain_function_ends_too(case, worker, way, expected):
    """It runs in a thread, and what it raises would never reach whoever awaits it, or end the event loop."""
    misbehave["plain tool"] = WAYS[way]
    assert plain_look.__name__ == "plain_look"
    end, failures, _ = case("tree", PLAIN_TOOL)
    assert end == expected, failures
    errors = worker.guard.take_totals().errors
    assert errors > 0 if expected == "fine" else errors == 0


def test_every_way_is_tried_everywhere():
    assert set(ENDS) == {(where, way) for where in ("tool", "loop", "reward") for way in WAYS} and len(WAYS) == 12


@pytest.mark.parametrize("mode", MODES)
def test_nobody_misbehaves(case, mode):
    end, failures, queue = case(mode)
    assert end == "fine" and failures == Failures(finished=1) and queue.status == {"p1": "finished"}
