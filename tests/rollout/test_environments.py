"""Trees over environments with state, under random trouble: leaves, rewards, releases and ends hold."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.fakes import FakeEngine
from tests.assets.trees import outputs_of
from tests.assets.walks import ForkingWalk, Walk, grower
from verl_atpo.config import AtpoConfig, ExpansionConfig, GrowthConfig, Schedule
from verl_atpo.tools import ToolOutage
from verl_atpo.tree.growth import GrownTree


def config(regrows: int) -> AtpoConfig:
    return AtpoConfig(expansion=ExpansionConfig(3, 2, 2, schedule=Schedule.ROUNDS), growth=GrowthConfig(regrows, 0.0))


def check(grown: GrownTree) -> None:
    assert len(grown.leaves) == 7
    for branch, output in zip(grown.trajectories, outputs_of(grown), strict=True):
        assert sum(output.token_rewards) == pytest.approx(branch.reward, abs=1e-6)
        assert not branch.diverged


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([Walk, ForkingWalk]),
    st.integers(0, 10_000),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.floats(0, 0.1),
    st.floats(0.05, 0.9),
)
def test_trees_are_whole_and_states_released_whatever_fails(kind, seed, fail, refuse, engine_fails, stop):
    tool = kind(random.Random(seed), fail, refuse)
    engine = FakeEngine(seed, stop=stop, fail=engine_fails, latency_s=0.002)
    grown = asyncio.run(asyncio.wait_for(grower(tool, engine, config(60)).grow(), 60))
    check(grown)
    assert tool.opened == tool.closed and not tool.wrong


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([Walk, ForkingWalk]), st.integers(0, 10_000), st.floats(0.0, 0.03))
def test_a_cancelled_tree_leaves_nothing_behind(kind, seed, after_s):
    tool = kind(random.Random(seed), 0.1, 0.1)

    async def cancelled() -> int:
        task = asyncio.create_task(grower(tool, FakeEngine(seed, 0.3, latency_s=0.01), config(20)).grow())
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(asyncio.all_tasks())

    assert asyncio.run(cancelled()) == 1  # the test itself
    assert tool.opened == tool.closed


def test_a_tree_whose_tool_stays_away_fails_with_its_reason():
    tool = Walk(random.Random(0), fail=1.0, refuse=0.0)
    with pytest.raises(ToolOutage, match=r"gone|busy|cut"):
        asyncio.run(grower(tool, FakeEngine(0, stop=0.0), config(2)).grow())
    assert tool.opened == tool.closed > 0
