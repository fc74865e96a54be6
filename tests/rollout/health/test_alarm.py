"""Three steps that teach nothing are an alarm with its cause."""

from __future__ import annotations

import dataclasses

import pytest

from tests.assets.fakes import FakeEngine, FakeLoop
from tests.assets.growing import config_of, grow_tree
from verl_atpo.replay.guard import CallCounts
from verl_atpo.report.metrics import WorkerStats, tree_stats
from verl_atpo.rollout.health.alarm import UselessSteps


@pytest.fixture
async def useful() -> WorkerStats:
    stats = tree_stats(await grow_tree(config_of(), FakeEngine(0, stop=0.3), FakeLoop(5)), seconds=1.0)
    assert stats.distinct_rewards > 1 and max(stats.depths) > 1
    return WorkerStats([stats, stats], tools=CallCounts(calls=10, errors=3, first_error="Traceback: first"))


def with_trees(stats: WorkerStats, **changed) -> WorkerStats:
    return dataclasses.replace(stats, trees=[dataclasses.replace(tree, **changed) for tree in stats.trees])


async def test_the_third_useless_step_in_a_row_is_an_alarm(useful, caplog):
    steps, equal = UselessSteps(), with_trees(useful, teaches=False)
    for step in (equal, equal, useful, equal, equal):
        steps.look(step)
    steps.look(WorkerStats())  # no trees at all: other checks speak of that
    assert not caplog.records
    steps.look(equal)
    assert "The last 3 steps taught nothing: the rewards inside each of 2 trees were equal" in caplog.text
    assert "Traceback: first" in caplog.text
    for _ in range(3):
        steps.look(equal)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2 and "The last 6 steps" in caplog.text


async def test_a_credit_that_tells_turns_of_equal_outcomes_apart_teaches(useful, caplog):
    steps = UselessSteps()
    for _ in range(3):
        steps.look(with_trees(useful, distinct_rewards=1))
    assert not caplog.records


async def test_every_cause_is_named(useful, caplog):
    raising = dataclasses.replace(useful, tools=CallCounts(calls=150, errors=150, first_error="KeyError: 'board'"))
    for useless in (raising, with_trees(useful, depths=[1, 1])):
        steps = UselessSteps()
        for _ in range(3):
            steps.look(useless)
    assert "every one of 150 tool calls raised" in caplog.text and "KeyError: 'board'" in caplog.text
    assert "every trajectory had one turn" in caplog.text


def test_the_first_error_is_kept_when_counts_are_added():
    counts = CallCounts()
    counts.add(CallCounts(calls=1))
    counts.add(CallCounts(calls=1, errors=1, first_error="one"))
    counts.add(CallCounts(calls=1, errors=1, first_error="two"))
    assert (counts.calls, counts.errors, counts.first_error) == (3, 2, "one")
