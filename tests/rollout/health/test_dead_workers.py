"""The watch over rollout workers: what counts as dead, and what it does to one that makes no progress."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from verl_atpo.rollout.health import dead_workers
from verl_atpo.rollout.health.dead_workers import WorkerWatch, health_of
from verl_atpo.rollout.health.stop import Failures

WORKER = SimpleNamespace(failures=SimpleNamespace(remote=lambda: None))


@pytest.mark.parametrize(
    ("error", "dead"),
    [
        (ray.exceptions.ActorDiedError(), True),
        (ray.exceptions.OutOfMemoryError("killed by Ray"), True),
        (ray.exceptions.WorkerCrashedError(), True),
        (ray.exceptions.ActorUnavailableError("for a moment", None), False),
        (ray.exceptions.GetTimeoutError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_worker_is_dead_for_every_error_that_lasts(
    error: Exception, dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", fail)
    assert health_of(WORKER) == (None, error if dead else None)


def test_a_worker_that_answers_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda *args, **kwargs: Failures(finished=1))
    assert health_of(WORKER) == (Failures(finished=1), None)


class Worker:
    """A handle whose ``failures`` gives these answers, one after the other; the last one for ever."""

    def __init__(self, *answers: Failures | Exception) -> None:
        self.answers, self.killed = list(answers), False
        self.failures = SimpleNamespace(remote=lambda: self)

    def get(self) -> Failures:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def watched(monkeypatch):
    """Runs a watch over one worker until it lets go of it; returns the watch and the prompts that failed."""
    failed = []
    monkeypatch.setattr(ray, "get", lambda worker, timeout: worker.get())
    monkeypatch.setattr(ray, "kill", lambda worker: setattr(worker, "killed", True))
    monkeypatch.setattr(dead_workers, "fail_unfinished", lambda uids: failed.extend(sorted(uids)) or failed)

    def run(worker: Worker, looks: int, limit_s: float | None = 30.0) -> tuple[WorkerWatch, list[str]]:
        watch = WorkerWatch(limit_s, interval_s=3600.0)
        watch.hold(worker, ["p1", "p2"])
        for _ in range(looks):
            if worker in watch._held:
                watch._look_at(worker)
        return watch, failed

    return run


def test_a_worker_that_says_it_stands_still_is_ended_and_its_prompts_fail(watched):
    worker = Worker(Failures(), Failures(fatal="Tool 'x' has made no progress", stuck=True))
    watch, failed = watched(worker, looks=1)
    assert (watch.stuck, failed, worker.killed) == (None, [], False)
    watch, failed = watched(worker, looks=3)
    assert watch.stuck == "Tool 'x' has made no progress" and failed == ["p1", "p2"] and worker.killed


def test_a_healthy_worker_does_not_hide_one_that_stood_still(watched):
    watch, _ = watched(Worker(Failures(fatal="blocked", stuck=True)), looks=1)
    healthy = Worker(Failures())
    watch.hold(healthy, ["p3"])
    watch._look_at(healthy)
    assert watch.stuck == "blocked" and not healthy.killed


def test_a_setting_that_cannot_work_is_no_reason_to_end_a_worker(watched):
    worker = Worker(Failures(fatal="no reward for this source"))
    assert watched(worker, looks=3)[0].stuck is None and not worker.killed


def test_a_worker_that_says_nothing_is_ended_after_the_limit(watched):
    """Each look without an answer takes the answer's time and that of the pause: the second passes the limit."""
    silent = ray.exceptions.GetTimeoutError()
    worker = Worker(Failures(), silent)
    watch, failed = watched(worker, looks=2, limit_s=dead_workers.ANSWER_S + 3600.0 + 1)
    assert watch.stuck is None and not worker.killed
    worker = Worker(Failures(), silent)
    watch, failed = watched(worker, looks=3, limit_s=dead_workers.ANSWER_S + 3600.0 + 1)
    assert "has not answered for 7210 s" in watch.stuck and "watch.limit_s" in watch.stuck
    assert worker.killed and failed == ["p1", "p2"]


@pytest.mark.parametrize(
    "answers", [[ray.exceptions.GetTimeoutError()], [Failures(), ray.exceptions.GetTimeoutError()]]
)
def test_a_worker_that_is_being_made_and_one_without_a_limit_may_be_silent(watched, answers):
    worker = Worker(*answers)
    limit_s = None if len(answers) > 1 else 1.0
    assert watched(worker, looks=5, limit_s=limit_s)[0].stuck is None and not worker.killed


def test_a_dead_worker_is_let_go_of(watched):
    watch, failed = watched(Worker(ray.exceptions.ActorDiedError()), looks=2)
    assert watch.stuck is None and failed == ["p1", "p2"]
