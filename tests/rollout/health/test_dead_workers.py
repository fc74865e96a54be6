"""The watch over rollout workers: what counts as dead."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from verl_atpo.rollout.health.dead_workers import death_of

WORKER = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: None))


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
    assert death_of(WORKER) == (error if dead else None)


def test_a_worker_that_answers_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda *args, **kwargs: None)
    assert death_of(WORKER) is None
