"""Continuous growth: whatever ends, fails or is late, the tree is whole, and what it was made of can be told."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiotools import VirtualClock
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.assets.fakes import FakeEngine, FakeLoop, contexts, runner_of
from tests.assets.trees import credit_of, outputs_of
from tests.assets.walks import ForkingWalk, Walk, grower
from verl_atpo.config import AtpoConfig, CreditConfig, ExpansionConfig, GrowthConfig, Penalty, Schedule
from verl_atpo.method.credit import node_values
from verl_atpo.method.expansion import uncertainty_score
from verl_atpo.replay.runner import Start
from verl_atpo.report.describe import TreeDescriber
from verl_atpo.report.metrics import tree_stats
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.trajectory import Trajectory
from verl_atpo.tree.tree import ROOT, Depth, TurnTree

EXPANSION: dict[str, Any] = {"schedule": Schedule.CONTINUOUS}


def config(chains: int = 4, branches: int = 3, rounds: int = 2, **expansion: Any) -> AtpoConfig:
    settings = ExpansionConfig(chains, branches, rounds, **EXPANSION | expansion)
    return AtpoConfig(expansion=settings, growth=GrowthConfig(max_regrows=60, regrow_delay_s=0.5))


class Watched:
    """Runs branches and notes who ran when."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.starts: list[Start] = []
        self.running: set[int] = set()
        self.most_running = 0
        self.beside: dict[int, set[int]] = {}
        self.began: list[float] = []

    async def __call__(self, start: Start) -> Trajectory:
        self.starts.append(start)
        self.began.append(asyncio.get_running_loop().time())
        self.running.add(start.number)
        self.beside.setdefault(start.number, set(self.running))
        self.most_running = max(self.most_running, len(self.running))
        branch = await self._runner.trajectory(start)
        self.running.discard(start.number)
        return branch


def grow(config: AtpoConfig, engine: FakeEngine, loop: FakeLoop, *earlier: Any) -> tuple[GrownTree, Watched]:
    """A tree on a virtual clock, which notices one that makes no progress. ``earlier`` is what is known of trees."""

    async def on_a_virtual_clock() -> tuple[GrownTree, Watched]:
        with VirtualClock().patch_loop():
            run = Watched(runner_of(engine, loop))
            grower = TreeGrower(config, run, random.Random(0), None, *earlier)
            return await asyncio.wait_for(grower.grow(), 1e6), run

    return asyncio.run(on_a_virtual_clock())


def check(grown: GrownTree, config: AtpoConfig) -> None:
    """The tree is whole, its paths are what its branches saw, and rewards are neither lost nor made."""
    tree, leaves = grown.tree, config.expansion.leaves
    assert [rollout.number for rollout in grown.rollouts] == list(range(leaves)) and len(grown.trajectories) == leaves
    assert sorted(grown.leaves) == sorted(tree.leaves) and len(set(grown.leaves)) == leaves
    for rollout, branch, leaf in zip(grown.rollouts, grown.trajectories, grown.leaves, strict=True):
        path = tree.path(leaf)
        assert contexts(tree.generations(path)) == contexts(branch.generations)
        own = [node for node in path if tree.nodes[node].sampled_by == rollout.number]
        assert own and own == path[-len(own) :]
        assert tree.nodes[leaf].reward == branch.reward
        if not branch.diverged and rollout.selection is not None and rollout.context:
            assert path[: len(rollout.context)] == rollout.context == tree.path(rollout.selection.node)[:-1]
    rows = list(outputs_of(grown))
    assert [sum(row.token_rewards) for row in rows] == pytest.approx([b.reward for b in grown.trajectories], abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    chains=st.integers(1, 5),
    branches=st.integers(1, 4),
    rounds=st.integers(0, 3),
    seed=st.integers(0, 10_000),
    stop=st.sampled_from([0.0, 0.3, 1.0]),
    max_turns=st.integers(1, 5),
    drift=st.booleans(),
    fail=st.sampled_from([0.0, 0.1, 0.3]),
    start_after=st.sampled_from([0.1, 0.5, 1.0]),
    in_flight=st.sampled_from([None, 1, 2, 5]),
    strategy=st.sampled_from(["entropy", "random"]),
)
@example(1, 1, 1, 9, 0.0, 4, False, 0.3, 0.1, None, "random")  # fails twenty times in a row
def test_always_exactly_its_leaves_and_never_more_at_a_time(
    chains, branches, rounds, seed, stop, max_turns, drift, fail, start_after, in_flight, strategy
):
    settings = config(
        chains, branches, rounds, start_after=start_after, in_flight=in_flight, strategy=strategy, penalty=0.2
    )
    engine = FakeEngine(seed, stop=stop, fail=fail, latency_s=10.0)
    grown, run = grow(settings, engine, FakeLoop(max_turns, drift))
    check(grown, settings)
    assert in_flight is None or run.most_running <= in_flight
    first = next((rollout for rollout in grown.rollouts if rollout.selection), None)
    if first is not None:  # enough chains had ended
        still = run.beside[first.number] & set(range(chains))
        assert chains - len(still) >= math.ceil(start_after * chains)
    assert grown.regrown == len(run.starts) - settings.expansion.leaves


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([Walk, ForkingWalk]),
    seed=st.integers(0, 10_000),
    fail=st.floats(0, 0.3),
    refuse=st.floats(0, 0.3),
    engine_fails=st.floats(0, 0.1),
    stop=st.floats(0.05, 0.9),
    in_flight=st.sampled_from([None, 3]),
)
def test_environments_with_state_work_at_the_turns_of_running_branches(
    kind, seed, fail, refuse, engine_fails, stop, in_flight
):
    tool = kind(random.Random(seed), fail, refuse)
    settings = config(3, 2, 2, in_flight=in_flight)

    async def on_a_virtual_clock() -> GrownTree:
        with VirtualClock().patch_loop():
            engine = FakeEngine(seed, stop=stop, fail=engine_fails, latency_s=2.0)
            return await asyncio.wait_for(grower(tool, engine, settings).grow(), 1e6)

    grown = asyncio.run(on_a_virtual_clock())
    check(grown, settings)
    assert tool.opened == tool.closed and not tool.wrong
    assert not any(branch.diverged for branch in grown.trajectories)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    chains=st.integers(2, 5),
    branches=st.integers(1, 4),
    penalty_counts=st.sampled_from(Penalty),
    strategy=st.sampled_from(["entropy", "random"]),
)
def test_with_equal_latencies_after_all_chains_the_picks_of_a_round_are_those_of_rounds(
    seed, chains, branches, penalty_counts, strategy
):
    """The root, which `continuous` leaves out, aside."""
    picked = {}
    for schedule in (Schedule.ROUNDS, Schedule.CONTINUOUS):
        settings = config(
            chains, branches, 1, schedule=schedule, start_after=1.0, penalty_counts=penalty_counts, strategy=strategy
        )
        engine = FakeEngine(seed, stop=0.3)  # no latency: all take a turn at the same instant
        grown, _ = grow(settings, engine, FakeLoop(4))
        turns = {node.index: tuple(grown.tree.turn(node.index).token_ids) for node in grown.tree.nodes[1:]}
        assume(ROOT not in grown.selected)
        picked[schedule] = [turns[node] for node in grown.selected]
    if strategy == "random":  # an order of the same candidates, which have other indices
        assert len(picked[Schedule.ROUNDS]) == len(picked[Schedule.CONTINUOUS]) == branches
    else:
        assert picked[Schedule.ROUNDS] == picked[Schedule.CONTINUOUS]


def test_a_branch_starts_at_a_turn_of_a_branch_that_still_runs_and_that_may_die():
    """Both happen; the turns of a try that died stay, and have a value only where another branch went on from them."""
    seen = {"running": 0, "died": 0, "worthless": 0}
    for seed in range(60):
        settings = config(4, 3, 2, start_after=0.25)
        grown, run = grow(settings, FakeEngine(seed, stop=0.2, fail=0.15, latency_s=10.0), FakeLoop(6))
        check(grown, settings)
        tree, values = grown.tree, node_values(grown.tree, CreditConfig().backup)
        alive = {node for leaf in grown.leaves for node in tree.path(leaf)}
        assert {node.index for node in tree.nodes[1:] if values[node.index] is not None} == alive
        for rollout in grown.rollouts:
            owners = {tree.nodes[node].sampled_by for node in rollout.context}
            seen["running"] += bool(owners & run.beside[rollout.number])
            seen["died"] += any(_died(grown, node) for node in rollout.context)
        seen["worthless"] += len(tree.nodes) - 1 - len(alive)
        stats = tree_stats(grown, seconds=1.0)
        assert stats.nodes == len(tree.nodes) - 1
        assert stats.sampled_tokens == sum(len(tree.turn(node.index).token_ids) for node in tree.nodes[1:])
    assert all(seen.values()), seen


def _died(grown: GrownTree, node: int) -> bool:
    """Whether the try that sampled a node has no leaf below it."""
    owner = grown.tree.nodes[node].sampled_by
    return node not in grown.tree.path(grown.leaves[owner])


def test_an_expansion_counts_from_its_start():
    tree = TurnTree()
    tree.add_turn(ROOT, mean_nll=1.0)
    tree.add_turn(1, mean_nll=0.8)
    settings = ExpansionConfig(penalty=0.1, penalty_counts=Penalty.EXPANSIONS)
    assert [uncertainty_score(tree, node, settings) for node in (1, 2)] == pytest.approx([1.0, 0.8])
    tree.pending[1] = 2  # two branches are on their way to a turn beside turn 2
    assert [uncertainty_score(tree, node, settings) for node in (1, 2)] == pytest.approx([1.0, 0.6])


@pytest.mark.parametrize("in_flight", [None, 2, 4])
def test_why_a_turn_was_picked_is_told_with_it(in_flight):
    settings = config(2, 6, 3, in_flight=in_flight, penalty=0.05)
    grown, _ = grow(settings, FakeEngine(3, stop=0.1, latency_s=10.0), FakeLoop(4))
    picks = [rollout.selection for rollout in grown.rollouts if rollout.selection is not None]
    assert len(picks) == 18
    for pick in picks:
        node = grown.tree.nodes[pick.node]
        assert pick.score == pytest.approx(node.mean_nll - pick.penalty)
        assert 1 <= pick.rank <= pick.candidates
        assert pick.node != ROOT and not node.is_leaf
    together = [rollout.selection for rollout in grown.rollouts if rollout.round == 1 and rollout.selection is not None]
    assert [pick.rank for pick in together] == [1 + at % together[0].candidates for at in range(len(together))]
    grown_ones = [rollout for rollout in grown.rollouts if rollout.selection is not None]
    for rollout in grown_ones:  # a branch counts from its start, whether it has sampled a turn or not
        before = [each for each in grown_ones if each.round < rollout.round and each.context == rollout.context]
        assert rollout.selection.penalty == pytest.approx(0.05 * len(before))
    assert any(rollout.selection.penalty > 0 for rollout in grown_ones) or in_flight is None


def test_the_dump_says_when_each_branch_started_and_why():
    grown, _ = grow(config(4, 3, 2), FakeEngine(3, stop=0.1, fail=0.2, latency_s=10.0), FakeLoop(4))
    tokenizer = SimpleNamespace(
        decode=lambda ids, **_: str(ids), batch_decode=lambda batch, **_: list(map(str, batch)), all_special_tokens=()
    )
    described = TreeDescriber(tokenizer, AtpoConfig()).record(
        grown, credit_of(grown), {"uid": "u", "global_steps": 1}, seconds=1.0
    )
    record = json.loads(json.dumps(described))
    assert [branch["leaf"] for branch in record["trajectories"]] == grown.leaves
    assert [branch["selection"] is None for branch in record["trajectories"]] == [True] * 4 + [False] * 6
    for branch, rollout in zip(record["trajectories"], grown.rollouts, strict=True):
        assert 0 <= branch["started_s"] <= branch["ended_s"] and len(branch["failures"]) == len(rollout.failures)
        if rollout.selection is not None:
            assert branch["selection"] == dataclasses.asdict(rollout.selection)
    assert any(branch["failures"] for branch in record["trajectories"])


def test_forking_tools_leave_snapshots_while_branches_are_still_to_start():
    _, run = grow(config(4, 3, 2, in_flight=4), FakeEngine(3, stop=0.1, latency_s=10.0), FakeLoop(6))
    assert _numbers_without(run.starts) == [9]
    _, run = grow(config(4, 3, 2), FakeEngine(3, stop=0.1, latency_s=10.0), FakeLoop(6))
    assert _numbers_without(run.starts) == [4, 5, 6, 7, 8, 9]  # all start at once
    _, run = grow(config(4, 3, 0), FakeEngine(3, stop=0.1, latency_s=10.0), FakeLoop(6))
    assert _numbers_without(run.starts) == [0, 1, 2, 3]


def _numbers_without(starts: Sequence[Start]) -> list[int]:
    return [start.number for start in starts if not start.snapshots]


FOUR_TURNS = [Depth(0.0, 1.0), Depth(0.25, 1.0), Depth(0.5, 1.0), Depth(0.75, 0.0)]
"""Chains of earlier trees: four turns of equal length."""
HALVED = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Share of the outcome's variance that is left after each turn."""


@settings(max_examples=80, deadline=None)
@given(
    chains=st.integers(1, 5),
    branches=st.integers(1, 4),
    rounds=st.integers(0, 3),
    seed=st.integers(0, 10_000),
    stop=st.sampled_from([0.0, 0.3, 1.0]),
    max_turns=st.integers(1, 6),
    drift=st.booleans(),
    fail=st.sampled_from([0.0, 0.2]),
    ends=st.sampled_from([(0.01, 0.01), (0.2, 0.6), (1.0, 1.0)]),
    in_flight=st.sampled_from([None, 1, 5]),
    strategy=st.sampled_from(["entropy", "random", "noise"]),
    known=st.booleans(),
)
def test_staggered_trees_are_whole_too(
    chains, branches, rounds, seed, stop, max_turns, drift, fail, ends, in_flight, strategy, known
):
    settings = config(
        chains, branches, rounds, schedule=Schedule.STAGGERED, first_at=ends[0], last_at=ends[1],
        in_flight=in_flight, strategy=strategy,
    )  # fmt: skip
    earlier = (HALVED, FOUR_TURNS) if known else ()
    grown, run = grow(
        settings, FakeEngine(seed, stop=stop, fail=fail, latency_s=10.0), FakeLoop(max_turns, drift), *earlier
    )
    check(grown, settings)
    assert in_flight is None or run.most_running <= in_flight


class Clockwork(FakeEngine):
    """Answers every request after one second, so that all chains take their turns together."""

    async def generate(self, request_id: str, **kwargs: Any) -> Any:
        await asyncio.sleep(1.0)
        return await super().generate(request_id, **kwargs)


def test_staggered_expansions_start_as_the_turns_of_chains_join():
    """Four chains of 6 turns, one a second; earlier chains had 4, so a quarter of the expected turns is a second.

    A turn joins when the next one begins, the second one after 2 s. Of six expansions between 20 and 70 %, those due at
    20, 30, 40 and 50 % start then, the others at 60 and 70 % after 3 s.
    """
    settings = config(4, 3, 2, schedule=Schedule.STAGGERED, first_at=0.2, last_at=0.7, strategy="entropy")
    _, run = grow(settings, Clockwork(1, stop=0.0), FakeLoop(6), HALVED, FOUR_TURNS)
    assert run.began == [0, 0, 0, 0, 2, 2, 2, 2, 3, 3]
    _, run = grow(settings, Clockwork(1, stop=0.0), FakeLoop(6))  # nothing is known: like continuous
    assert run.began == [0, 0, 0, 0, 6, 6, 6, 6, 6, 6]


def test_staggered_expansions_where_noise_falls_most_fall_on_one_chain_each():
    settings = config(6, 3, 2, schedule=Schedule.STAGGERED, first_at=0.01, last_at=0.01, strategy="noise")
    grown, run = grow(settings, FakeEngine(2, stop=0.0, latency_s=10.0), FakeLoop(6), HALVED, FOUR_TURNS)
    check(grown, settings)
    assert sorted(grown.tree.path(node)[0] for node in grown.selected) == sorted(
        grown.tree.path(leaf)[0] for leaf in grown.leaves[:6]
    )
    assert all(run.beside[rollout.number] & set(range(6)) for rollout in grown.rollouts[6:])  # chains were running
