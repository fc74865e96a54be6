"""What one step's gradient is worth: the estimates, and that a gradient is the one that training would take."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from benchmarks.lab import hopqa
from benchmarks.lab.episodes import Task
from benchmarks.lab.gradient import EXPECTED_OUTCOME, Place, measure, signal_share, table
from benchmarks.lab.run import Plan, Run


@functools.cache
def small_task() -> Task:
    task = hopqa.make_task(2)
    return dataclasses.replace(task, held_out=task.held_out[:4])


def test_signal_share_is_that_of_the_mean() -> None:
    """Draws around (3, 4), noise of variance 100 in all: 25 / 125."""
    noise = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0)) * 50**0.5
    assert signal_share(torch.tensor([3.0, 4.0]) + noise) == pytest.approx(0.2, abs=0.01)
    assert signal_share(torch.ones(5, 3)) == pytest.approx(1)


def test_a_gradient_is_what_training_follows_and_changes_nothing() -> None:
    """A step of plain descent along it is what the same optimizer makes of a training step."""
    plan = Plan("hopqa", "tree_4", 2, 0)
    changes = {"mini_batch": 8}
    looked, trained = Run(plan, small_task(), **changes), Run(plan, small_task(), **changes)
    policy = {name: weight.clone() for name, weight in looked.state()["model"].items()}
    gradient = looked.gradient(policy)
    assert all(torch.equal(weight, policy[name]) for name, weight in looked.state()["model"].items())
    assert gradient.norm() > 0

    learner = trained._learner
    learner.optimizer = torch.optim.SGD(learner._model.parameters(), lr=1.0)
    before = torch.cat([weight.detach().flatten().clone() for weight in learner._model.parameters()])
    trained.train()
    after = torch.cat([weight.detach().flatten() for weight in learner._model.parameters()])
    clipped = gradient * min(1.0, 1.0 / float(gradient.norm()))
    torch.testing.assert_close(before - after, clipped, atol=1e-5, rtol=1e-3)


def test_chains_of_many_prompts_point_where_outcomes_rise() -> None:
    reference = Run(Plan("hopqa", "grpo", 2, 1), small_task(), **EXPECTED_OUTCOME)
    policy = {name: weight.clone() for name, weight in reference.state()["model"].items()}
    best = torch.stack([reference.gradient(policy) for _ in range(4)]).mean(0)
    rows = [measure(Plan("hopqa", arm, 2, 0), small_task(), policy, best, 2) for arm in ("grpo", "tree_4")]
    for row in rows:
        assert len(row["cosine"]) == 2 and 0 < row["cosine_of_mean"] < 1 and row["sampled_tokens"] > 100
    assert rows[1]["sampled_tokens"] < rows[0]["sampled_tokens"]
    told = table(rows)
    assert told.count("±") == 1 and "AT²PO, 4 + 12 trajectories" in told


def test_policy_and_direction_are_kept(tmp_path: Path) -> None:
    place = Place("hopqa", world=2, seed=0, after=1, reference=1)
    policy, direction = place.look(small_task(), tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns

    again, same = place.look(small_task(), tmp_path)

    assert file.stat().st_mtime_ns == written
    assert direction.norm() > 0 and torch.equal(same, direction)
    assert all(torch.equal(again[name], policy[name]) for name in policy)
