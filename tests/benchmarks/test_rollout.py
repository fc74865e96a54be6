"""The rollout benchmark's simulation: an engine's seconds, and the four schedules on a virtual clock."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from aiotools import VirtualClock

from benchmarks.rollout import scale
from benchmarks.rollout.__main__ import LATENCIES, repetitions, summary
from benchmarks.rollout.agent import Latency, Workload
from benchmarks.rollout.bound import bound
from benchmarks.rollout.scale import simulate
from benchmarks.rollout.schedules import SCHEDULES, Batch, rounds
from benchmarks.rollout.simulated import EngineSpeed, SimulatedEngine, SimulatedFleet
from benchmarks.rollout.traffic import bytes_per_leaf
from verl_atpo.config import AtpoConfig, ExpansionConfig

SPEED = EngineSpeed(step_s=1.0, sequence_s=0.1, prefill_s=0.01, max_num_seqs=1)
SMALL = AtpoConfig(expansion=ExpansionConfig(initial_chains=3, branches_per_round=2, rounds=2))


async def test_an_engine_takes_a_step_a_token_and_prefills_what_it_has_not_cached():
    with VirtualClock().patch_loop():
        engine, clock = SimulatedEngine(SPEED), asyncio.get_running_loop()
        # 20 tokens to prefill, then two steps of 1 + 0.1 s.
        await engine.sample(list(range(20)), [7, 7])
        assert clock.time() == pytest.approx(0.2 + 2 * 1.1)
        # One block of 16 tokens is cached; the second request waits for the only place, with 20 tokens to prefill.
        before = clock.time()
        await asyncio.gather(engine.sample(list(range(20)), [7]), engine.sample([50] * 20, [7]))
        assert clock.time() - before == pytest.approx((0.04 + 1.1) + (0.2 + 1.1))
        assert engine.busy_s == pytest.approx(clock.time())
        assert engine.load == 0


async def test_a_request_id_stays_with_its_engine_and_new_ones_spread():
    with VirtualClock().patch_loop():
        fleet = SimulatedFleet(2, SPEED)
        parameters = {"max_tokens": 1}
        asked = [fleet.generate(name, prompt_ids=[1], sampling_params=parameters) for name in ("a", "b")]
        running = asyncio.gather(*asked)
        await asyncio.sleep(0)
        assert [engine.load for engine in fleet.engines] == [1, 1]
        await running
        await fleet.generate("a", prompt_ids=[1], sampling_params=parameters)
        assert fleet.engines[0].busy_s == pytest.approx(2 * fleet.engines[1].busy_s)
        assert fleet.sampled_tokens == 3


def test_no_schedule_waits_more_than_rounds_and_lock_step_waits_most():
    """In the mean of 8 seeds: one call in ten takes 30 times as long, so that a single seed may say otherwise."""
    latency, leaves = Latency(median_s=0.5, sigma=0.5, tail_share=0.1), 8 * SMALL.expansion.leaves
    seconds, tokens_per_leaf = Counter[str](), Counter[str]()
    for seed in range(8):
        batch = Batch(8, SMALL, Workload(median_turn_tokens=8), latency, seed)
        for schedule in SCHEDULES:
            each = asyncio.run(simulate(schedule, batch, 1, EngineSpeed()))
            assert each["leaves_per_s"] == pytest.approx(leaves / each["seconds"])
            assert 0 < each["busy"] <= 1.001
            seconds[schedule] += each["seconds"]
            tokens_per_leaf[schedule] += each["tokens_per_leaf"]
    assert seconds["continuous"] < seconds["rounds"] < seconds["lock-step"]
    assert tokens_per_leaf["rounds"] < tokens_per_leaf["chains"]


def test_the_same_seed_gives_the_same_figures():
    batch = Batch(2, SMALL, Workload(median_turn_tokens=8), Latency(median_s=0.1), seed=5)
    first, second = (asyncio.run(simulate("continuous", batch, 2)) for _ in range(2))
    assert first == second


def test_the_command_measures_what_it_is_asked_for(tmp_path, monkeypatch):
    out = tmp_path / "scale.json"
    asked = f"scale --engines 2 --tools no~latency --seed 3 4 --prompts 1 --processes 1 --out {out}"
    monkeypatch.setattr("sys.argv", [word.replace("~", " ") for word in asked.split()])
    scale.main()
    written = json.loads(out.read_text())
    (row,) = written["rows"]
    assert (row["engines"], row["tools"]) == (2, "no latency") and written["settings"]["seeds"] == [3, 4]
    runs = {(run["schedule"], run["seed"]): run for run in written["runs"]}
    assert set(runs) == {(schedule, seed) for schedule in SCHEDULES for seed in (3, 4)}
    ratios = [runs["continuous", seed]["leaves_per_s"] / runs["chains", seed]["leaves_per_s"] for seed in (3, 4)]
    assert row["leaves_per_s, continuous / chains"] == pytest.approx(sum(ratios) / 2)


async def test_a_fleet_deals_trees_out_evenly_so_that_it_falls_apart_into_its_workers():
    with VirtualClock().patch_loop():
        fleet = SimulatedFleet(4, EngineSpeed())
        await rounds(fleet, Batch(8, SMALL, Workload(median_turn_tokens=8), Latency(), 0))
    assert Counter(Counter(map(id, fleet._home.values())).values()) == {2: 4}  # 2 trees on each of 4 engines


def test_what_a_leaf_sends():
    """Trees ask for their own turns only, and their rows are those of as many chains."""
    asked, answered, row, tokens = bytes_per_leaf(Batch(2, SMALL, Workload(), Latency(), 0))
    for each in (asked, answered):
        assert 0 < each["trees"] < each["same leaves as chains"]
    for each in (row, tokens):
        assert each["trees"] == each["same leaves as chains"]
    assert row["trees"] > 36 * tokens["trees"]  # four integers of 8 bytes and more for every token


def test_only_whole_repetitions_are_kept_when_a_benchmark_goes_on():
    first, *others = LATENCIES
    known = [{"latency": first, "repetition": 0, "schedule": schedule} for schedule in SCHEDULES]
    known += [{"latency": others[0], "repetition": 0, "schedule": "chains"}]
    missing = list(repetitions(2, known))
    assert [(latency, number) for latency, number, _ in missing] == [
        *((latency, 0) for latency in others),
        *((latency, 1) for latency in LATENCIES),
    ]
    assert all(sorted(order) == sorted(SCHEDULES) for *_, order in missing)


def test_ratios_are_those_within_a_repetition():
    # Twice as slow in the second repetition, all of them: rounds make 0.5 and 0.75 of chains' leaves/s there.
    figures = {"busy": 0.1, "tokens_per_s": 1.0, "tokens_per_leaf": 1.0}
    runs = [
        {"latency": "constant", "repetition": number, "schedule": schedule, "leaves_per_s": speed, "seconds": 1 / speed}
        for number, speeds in enumerate(((4, 2, 4, 1), (2, 1.5, 2, 0.5)))
        for schedule, speed in zip(SCHEDULES, speeds, strict=True)
    ]
    rows = {row["schedule"]: row for row in summary([{**run, **figures} for run in runs])}
    assert rows["rounds"]["leaves_per_s / chains"] == pytest.approx((0.5 + 0.75) / 2)
    assert rows["continuous"]["leaves_per_s / lock-step"] == pytest.approx(4)
    assert {row["latency"] for row in rows.values()} == {"constant"}


def test_the_bound_is_a_chain_over_two_turns_and_what_follows_the_first():
    even = Workload(median_turn_tokens=10, turn_sigma=0.0, max_turns=3, end_share=0.0)
    assert bound(even, 2, 2, seed=0, prompts=1) == 30 / (20 + 20)
    assert bound(even, 2, 0, seed=0, prompts=1) == 1.0  # without expansions a tree is its chains
    assert bound(Workload(median_turn_tokens=10, turn_sigma=0.0, max_turns=2, end_share=0.0), 1, 1, 0, 1) == 20 / 30
