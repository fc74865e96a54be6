"""Adaptive budgets: who grows how much, and that all together never grow more than fixed budgets allow."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.fakes import FakeEngine, FakeLoop, runner_of
from verl_atpo.config import AtpoConfig, Budget, ConfigError, ExpansionConfig, GrowthConfig, Schedule
from verl_atpo.rollout.budget import SpareExpansions, TreeBudget
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tree.growth import GrownTree


def expansion(**settings: object) -> ExpansionConfig:
    """M=3, K=2, L=2: seven leaves."""
    return ExpansionConfig(3, 2, 2, **{"schedule": Schedule.ROUNDS, "budget": Budget.ADAPTIVE, **settings})


def grow(outcome, seed: int = 0, shared: SpareExpansions | None = None, **settings: object):
    config = AtpoConfig(expansion=expansion(**settings), growth=GrowthConfig(0, 0.0))
    runner = runner_of(FakeEngine(seed, stop=0.3, latency_s=0.0003), FakeLoop(4), outcome)
    return TreeGrower(config, runner.trajectory, random.Random(seed), shared).grow()


def test_spares_run_out():
    spares = SpareExpansions(5)
    assert [spares.take(2) for _ in range(4)] == [2, 2, 1, 0]


def test_budget_by_hand():
    spares = SpareExpansions()
    rich, poor = (TreeBudget(expansion(spares=3), spares) for _ in range(2))
    assert rich.startable(0, 0, []) == 7  # no chain has started: nothing is known yet
    assert rich.startable(3, 0, [1.0, 1.0, 2.0]) == 0  # all have succeeded
    rich.close(3)
    assert spares.left == 4
    assert poor.startable(3, 0, [1.0, 0.0, 1.0]) == 4
    assert poor.startable(7, 1, [1.0, 0.0] * 3) == 0  # a branch of its own still runs
    assert poor.startable(7, 0, [1.0, 0.0] * 3 + [1.0]) == 2  # K of the spares
    assert poor.startable(9, 0, [1.0, 0.0] * 4 + [1.0]) == 1  # three are the most
    assert poor.startable(10, 0, [0.0] * 10) == 0
    poor.close(10)
    assert spares.left == 1


@pytest.mark.parametrize("schedule", Schedule)
async def test_a_tree_that_succeeds_grows_no_branch(schedule):
    grown = await grow(lambda output: 1.0, schedule=schedule)
    assert len(grown.leaves) == 3 and grown.selected == []
    grown = await grow(lambda output: 0.9, schedule=schedule)  # equal, but no success
    assert len(grown.leaves) == 7
    grown = await grow(lambda output: 0.9, schedule=schedule, success=0.9)
    assert len(grown.leaves) == 3
    grown = await grow(lambda output: 1.0, schedule=schedule, budget=Budget.FIXED)
    assert len(grown.leaves) == 7


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rate=st.sampled_from([0.5, 0.8, 1.0]),
    most=st.integers(0, 6),
    schedule=st.sampled_from(list(Schedule)),
    in_flight=st.sampled_from([None, 2]),
)
def test_trees_together_stay_within_fixed_budgets(seed, rate, most, schedule, in_flight):
    rng = random.Random(seed)
    luck: dict[int, list[float]] = {tree: [] for tree in range(6)}

    def outcome_of(tree: int):
        def outcome(output: object) -> float:
            luck[tree].append(float(rng.random() < rate))
            return luck[tree][-1]

        return outcome

    async def grow_all() -> list[GrownTree]:
        shared = SpareExpansions()
        setting = {"schedule": schedule, "in_flight": in_flight, "spares": most}
        return await asyncio.gather(*(grow(outcome_of(tree), seed + tree, shared, **setting) for tree in luck))

    leaves = [len(grown.leaves) for grown in asyncio.run(grow_all())]
    assert leaves == [len(outcomes) for outcomes in luck.values()]
    assert sum(leaves) <= 7 * len(luck)
    for tree, count in enumerate(leaves):
        if min(luck[tree]) == 1.0:
            assert count == 3
        else:
            assert 7 <= count <= 7 + most
    if rate == 1.0:
        assert leaves == [3] * 6


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"expansion": {"spares": 4}}, "spares=4 cannot work"),
        ({"expansion": {"budget": "adaptive", "success": float("nan")}}, "success"),
        (
            {
                "expansion": {"budget": "adaptive"},
                "credit": {"weights": "split", "backup": "child_mean", "advantage": "diff_global"},
            },
            "budget='adaptive' cannot work",
        ),
    ],
)
def test_settings_that_cannot_work(values, words):
    with pytest.raises(ConfigError, match=words):
        AtpoConfig.from_mapping(values)
