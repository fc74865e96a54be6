"""The grower: exactly M + L * K leaves, sharing, divergence, failures."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.fakes import FakeEngine, FakeLoop, contexts, guard, run_loop_with
from tests.assets.growing import config_of, grow_tree
from verl_atpo.config import ConfigError
from verl_atpo.deadlines import within
from verl_atpo.failure import EngineOutage
from verl_atpo.replay.guard import CallCounts
from verl_atpo.replay.runner import LoopRunner
from verl_atpo.report.metrics import WorkerStats, step_metrics, tree_stats
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.tree import ROOT


def _check(grown: GrownTree, leaves: int) -> None:
    """Every leaf's path spells exactly the response its branch returned."""
    assert len(grown.leaves) == leaves
    assert sorted(grown.leaves) == sorted(grown.tree.leaves)
    for number, (branch, leaf) in enumerate(zip(grown.trajectories, grown.leaves, strict=True)):
        output = branch.output
        whole = output.prompt_ids + output.response_ids
        path = grown.tree.path(leaf)
        asked = contexts(grown.tree.generations(path))
        for node, context, start in zip(path, asked, branch.starts, strict=True):  # a turn is one generation here
            turn = grown.tree.turn(node)
            assert whole[: len(context)] == context
            assert start == len(context) - len(output.prompt_ids)
            assert output.response_ids[start : start + len(turn.token_ids)] == turn.token_ids
        assert sum(len(grown.tree.turn(node).token_ids) for node in path) == sum(output.response_mask)
        own = [node for node in path if grown.tree.nodes[node].sampled_by == number]
        assert own and own == path[-len(own) :]
        assert grown.tree.nodes[leaf].reward == branch.reward


@settings(max_examples=60, deadline=None)
@given(
    chains=st.integers(1, 4),
    branches=st.integers(1, 4),
    rounds=st.integers(0, 3),
    seed=st.integers(0, 10_000),
    stop=st.sampled_from([0.0, 0.3, 1.0]),
    max_turns=st.integers(1, 5),
    drift=st.booleans(),
    fail=st.sampled_from([0.0, 0.1]),
)
def test_always_exactly_its_leaves(chains, branches, rounds, seed, stop, max_turns, drift, fail):
    config = config_of(chains, branches, rounds, max_regrows=60)
    engine = FakeEngine(seed, stop=stop, fail=fail, latency_s=0.0005)
    grown = asyncio.run(grow_tree(config, engine, FakeLoop(max_turns, drift)))
    _check(grown, chains + rounds * branches)


async def test_a_branch_shares_the_turns_before_the_re_sampled_one():
    grown = await grow_tree(config_of(2, 2, 1), FakeEngine(3, stop=0.0), FakeLoop(4))
    for picked, leaf in zip(grown.selected, grown.leaves[2:], strict=True):
        depth = grown.tree.depth(picked)
        path = grown.tree.path(leaf)
        assert path[: depth - 1] == grown.tree.path(picked)[:-1]  # same turns before
        assert path[depth - 1] != picked  # a new sibling
        assert [grown.tree.nodes[node].round for node in path] == [0] * (depth - 1) + [1] * (5 - depth)


async def test_single_turn_chains_branch_from_the_root():
    grown = await grow_tree(config_of(2, 3, 1), FakeEngine(stop=1.0), FakeLoop(4))
    assert grown.selected == [ROOT] * 3
    assert len(grown.tree.nodes[ROOT].children) == 5


async def test_a_non_deterministic_environment_is_counted_and_its_branch_stands_alone():
    grown = await grow_tree(config_of(3, 4, 2), FakeEngine(1, stop=0.0), FakeLoop(4, drift=False))
    assert not any(branch.diverged for branch in grown.trajectories)

    class Drifting(FakeLoop):
        def weather(self, turn: int) -> list[int]:
            return [200 + self._noise.randrange(1000)] if turn == 0 else []

    grown = await grow_tree(config_of(3, 4, 2), FakeEngine(1, stop=0.0), Drifting(4))
    stats = tree_stats(grown, seconds=1.0)
    assert len(grown.leaves) == 11
    assert stats.diverged > 0
    assert step_metrics(WorkerStats([stats]))["atpo/replays_diverged"] == stats.diverged


async def test_a_loop_that_ends_during_its_replay_is_grown_from_the_root():
    class Impatient(FakeLoop):
        async def run(self, session, tools):
            self.max_turns = 2 if session._prefix else 4
            return await super().run(session, tools)

    config = config_of(1, 1, 1)
    for seed in range(20):
        grown = await grow_tree(config, FakeEngine(seed, stop=0.0), Impatient(4))
        _check(grown, 2)
        if grown.tree.depth(grown.selected[0]) > 2:
            assert grown.regrown == 1
            assert grown.tree.depth(grown.leaves[1]) == 4
            return
    pytest.fail("no seed picked a turn behind the second: the test shows nothing")


async def test_failures_are_regrown_never_cloned():
    engine = FakeEngine(7, stop=0.3, fail=0.15)
    grown = await grow_tree(config_of(4, 3, 2, max_regrows=50), engine, FakeLoop(4))
    _check(grown, 10)
    assert grown.regrown > 0
    assert len(set(map(id, grown.trajectories))) == 10
    assert tree_stats(grown, 1.0).regrown == grown.regrown


async def test_a_tree_that_cannot_be_grown_raises_and_leaves_no_task_behind():
    with pytest.raises(EngineOutage, match="engine gone"):
        await grow_tree(config_of(3, 1, 1, max_regrows=1), FakeEngine(fail=1.0), FakeLoop(4))
    assert len(asyncio.all_tasks()) == 1


async def test_config_errors_are_not_tried_again():
    calls = []

    async def run_loop(start):
        calls.append(start.number)
        raise ConfigError("no log-probs")

    with pytest.raises(ConfigError):
        await TreeGrower(config_of(2, 1, 1), run_loop, random.Random(0)).grow()
    assert sorted(calls) == [0, 1]


async def test_a_slow_branch_delays_nobody_but_its_own_round():
    finished: dict[int, float] = {}
    start = time.monotonic()
    run_loop = run_loop_with(FakeEngine(stop=0.0), FakeLoop(3))

    async def slow_first(asked):
        await asyncio.sleep(0.2 if asked.number == 0 else 0.0)
        branch = await run_loop(asked)
        finished[asked.number] = time.monotonic() - start
        return branch

    await TreeGrower(config_of(3, 2, 1), slow_first, random.Random(0)).grow()
    assert finished[1] < 0.1 and finished[2] < 0.1 and finished[0] >= 0.2


async def test_tokens_of_tries_that_died_count_as_sampled():
    run_loop, died = run_loop_with(FakeEngine(3), FakeLoop(4)), []

    async def dies_once(asked):
        branch = await run_loop(asked)
        if asked.number == 1 and not died:
            died.append(sum(len(turn.token_ids) for turn in branch.turns))
            raise EngineOutage("gone")
        return branch

    grown = await TreeGrower(config_of(3, 0, 0), dies_once, random.Random(0)).grow()
    stats = tree_stats(grown, seconds=1.0)
    assert died[0] > 0 and stats.regrown == 1
    assert stats.sampled_tokens == stats.tree_tokens + died[0]


async def test_a_branch_is_worth_what_outcomes_vary_from_its_context_on_for_its_tokens():
    grown = await grow_tree(config_of(3, 4, 2), FakeEngine(4, stop=0.2), FakeLoop(5))
    for number, branch in enumerate(grown.trajectories):
        branch.output.reward_score = float(number in (1, 2, 4, 5, 8, 9))
    stats = tree_stats(grown, seconds=1.0)
    assert stats.chain_variance == pytest.approx(1 / 3)
    again = [rollout for rollout in grown.rollouts if rollout.selection is not None and rollout.selection.node != ROOT]
    assert len(again) == len(stats.expansions) > 1
    for rollout, each in zip(again, stats.expansions, strict=True):
        sampler = grown.rollouts[grown.tree.nodes[rollout.selection.node].sampled_by]
        assert each.variance == (0.0 if sampler.trajectory.reward == rollout.trajectory.reward else 0.5)
        own = [node for node in grown.tree.path(rollout.tip) if grown.tree.nodes[node].sampled_by == rollout.number]
        assert each.tokens == sum(len(grown.tree.turn(node).token_ids) for node in own) > 0
    assert len({each.variance for each in stats.expansions}) == 2

    mean = sum(each.variance for each in stats.expansions) / sum(each.tokens for each in stats.expansions)
    worth = mean / (1 / 3) * stats.chain_tokens / stats.leaves
    assert step_metrics(WorkerStats([stats, stats]))["atpo/branch_worth"] == pytest.approx(worth)
    for untold in ({"expansions": []}, {"chain_variance": 0.0}, {"chain_variance": None}):
        assert "atpo/branch_worth" not in step_metrics(WorkerStats([dataclasses.replace(stats, **untold)]))


async def test_stats_count_sampled_and_saved_tokens():
    engine = FakeEngine(2, stop=0.0)
    grown = await grow_tree(config_of(2, 2, 1), engine, FakeLoop(4))
    stats = tree_stats(grown, seconds=2.0)
    trained = sum(sum(branch.output.response_mask) for branch in grown.trajectories)
    in_tree = sum(len(grown.tree.turn(node.index).token_ids) for node in grown.tree.nodes[1:])
    assert (stats.trained_tokens, stats.sampled_tokens, stats.tree_tokens) == (trained, in_tree, in_tree)
    chains = sum(sum(branch.output.response_mask) for branch in grown.trajectories[:2])
    assert stats.chain_tokens == 4 * chains / 2
    assert stats.leaves == 4 and stats.nodes == len(grown.tree.nodes) - 1 and stats.depths == [4] * 4
    metrics = step_metrics(WorkerStats([stats, stats]))
    assert metrics["atpo/saved_tokens_share"] == pytest.approx(1 - in_tree / (2 * chains))
    assert metrics["atpo/shared_tokens_share"] == pytest.approx(1 - in_tree / trained)
    picked = [grown.tree.nodes[node] for node in grown.selected]
    assert metrics["atpo/branched_mean_nll"] == pytest.approx(sum(node.mean_nll for node in picked) / len(picked))
    depths = [grown.tree.depth(node.index) for node in picked]
    fresh = [branch.turns[depth - 1] for branch, depth in zip(grown.trajectories[2:], depths, strict=True)]
    assert metrics["atpo/resampled_mean_nll"] == pytest.approx(sum(turn.mean_nll for turn in fresh) / len(fresh))
    assert metrics["atpo/resampled_mean_nll"] != metrics["atpo/branched_mean_nll"]
    assert metrics["atpo/trees"] == 2 and metrics["atpo/tree_seconds/mean"] == 2.0
    assert metrics["atpo/branched_turn"] == pytest.approx(sum(stats.branched_turn) / 2)
    failed = step_metrics(WorkerStats(failed=3, tools=CallCounts(calls=4, outages=3, seconds=2.0)))
    assert failed["atpo/trees_failed"] == failed["atpo/tool_outages"] == 3.0
    assert failed["atpo/tool_seconds/mean"] == 0.5 and "atpo/trees" not in failed


async def test_a_bug_is_reported_though_the_trajectory_beside_it_swallows_its_cancellation(monkeypatch):
    monkeypatch.setattr(within, "GRACE_S", 0.05)
    over = asyncio.Event()
    started = []

    async def loop(session, tools):
        started.append(session)
        if len(started) == 1:
            await asyncio.sleep(0.05)
            raise KeyError("a bug")
        while not over.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    run_loop = LoopRunner(FakeEngine(), guard(), loop).trajectory
    with pytest.raises(KeyError, match="a bug"):
        await asyncio.wait_for(TreeGrower(config_of(2, 1, 0), run_loop, random.Random(0)).grow(), 5)
    assert len(started) == 2
    over.set()
    await asyncio.sleep(0.03)
