"""The learning comparison: arms compose, runs are planned in balance, and the figures are what the files say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from transformers import Qwen3ForCausalLM

from benchmarks import runs
from benchmarks.learning.__main__ import plan
from benchmarks.learning.arms import ALL, ARMS, MAIN, PACKED, WALL_CLOCK
from benchmarks.learning.credit import compare, shared_turns, trains_on_values
from benchmarks.learning.curves import Run, common_tokens, paired, read_runs
from benchmarks.learning.report import tables
from benchmarks.learning.results import KEPT, RESULTS, record
from benchmarks.learning.session import composed
from benchmarks.learning.task import HOPS, fingerprint, preparation, warm_start_file
from benchmarks.learning.wall_clock import GRPO, PACKED_GRPO, table
from benchmarks.report import PAGES, filled
from examples.hopqa.prepare import prepare
from verl_atpo.report.metrics_file import read_steps


def metrics_file(folder: Path, tokens: list[float], accuracy: dict[int, float]) -> Path:
    """What verl's logger writes: a validation before training, then one line a step."""
    lines = [{"step": 0, "data": {"val-core/hopqa_2hop/acc/mean@1": accuracy[0]}}]
    for step, sampled in enumerate(tokens, start=1):
        data = dict.fromkeys(KEPT.values(), 0.5) | {"atpo/sampled_tokens": sampled}
        if step in accuracy:
            data["val-core/hopqa_2hop/acc/mean@1"] = accuracy[step]
        lines.append({"step": step, "data": data})
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def add_run(folder: Path, arm: str, seed: int, last: float, tokens: float = 100.0) -> None:
    """A run of two steps, validated before and after."""
    metrics = metrics_file(folder, [tokens, tokens], {0: 0.0, 2: last})
    runs.append(folder / "runs.jsonl", record(arm, seed, ALL[arm].overrides, read_steps(metrics), 1.0))


@pytest.mark.parametrize("arm", ALL)
def test_every_arm_is_a_config_that_can_work(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = composed(arm, 0, tmp_path, tmp_path).config
    assert config.actor_rollout_ref.rollout.n == (12 if arm == "clock_merged_packed" else 16)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class.endswith("TreeAgentLoopManager")


def test_every_run_is_planned_once_and_the_main_arms_come_first() -> None:
    sessions = plan(list(ALL))
    runs = [(arm, seed) for seed, arms in sessions for arm in arms]
    assert sorted(runs) == sorted((name, seed) for name, arm in ALL.items() for seed in arm.seeds)
    assert {arm for arm, _ in runs[: 5 * len(MAIN)]} == set(MAIN)
    for _, arms in sessions:
        assert len({PACKED in ALL[arm].overrides for arm in arms}) == 1, "a session has one engine"
    assert plan(["atpo", "atpo_random"], only={2, 4}) == [(2, ["atpo"]), (4, ["atpo"]), (2, ["atpo_random"])]


def test_a_validation_stands_at_the_tokens_sampled_before_it(tmp_path: Path) -> None:
    metrics = metrics_file(tmp_path, [10.0, 20.0, 30.0], {0: 0.1, 2: 0.3, 3: 0.6})
    run = Run.of(record("atpo", 0, (), read_steps(metrics), 1.0))
    assert run.tokens == (0.0, 30.0, 60.0)
    assert run.accuracy == (0.1, 0.3, 0.6)
    assert run.accuracy_at(45.0) == pytest.approx(0.45)
    # From 0 to 45: trapezoids of mean height 0.2 over 30 tokens and 0.375 over 15.
    assert run.mean_accuracy_until(45.0) == pytest.approx((0.2 * 30 + 0.375 * 15) / 45)


def test_arms_are_compared_seed_by_seed_where_all_have_sampled_as_much(tmp_path: Path) -> None:
    for seed, (ours, theirs) in enumerate([(0.5, 0.4), (0.7, 0.5), (0.9, 0.6)]):
        add_run(tmp_path, "atpo", seed, ours, tokens=50.0)
        add_run(tmp_path, "grpo", seed, theirs)
    add_run(tmp_path, "grpo", 3, 0.0)  # no partner
    found = read_runs(tmp_path / "runs.jsonl")
    assert common_tokens(found) == {0: 100.0, 1: 100.0, 2: 100.0, 3: 200.0}
    difference = paired(found, "atpo", "grpo", lambda run: run.accuracy[-1])
    assert difference is not None
    assert (difference.seeds, difference.mean) == (3, pytest.approx(0.2))
    assert difference.error == pytest.approx(0.1 / math.sqrt(3))
    assert difference.p == pytest.approx(0.0742, abs=1e-4)  # t = 2 sqrt(3) with 2 degrees of freedom
    assert paired(found, "atpo", "gspo", lambda run: run.accuracy[-1]) is None


def test_the_tables_have_every_arm_that_ran(tmp_path: Path) -> None:
    assert tables(tmp_path / "runs.jsonl") == "No run is done yet."
    add_run(tmp_path, "atpo", 0, 0.75)
    add_run(tmp_path, "grpo", 0, 0.5)
    text = tables(tmp_path / "runs.jsonl")
    assert f"2 of {sum(len(arm.seeds) for arm in ARMS.values())} runs are done" in text
    assert "+25.0 (one seed)" in text
    assert ARMS["gspo"].title not in text
    assert "on the same seeds" not in text
    add_run(tmp_path, "atpo_clip0.04", 0, 1.0)
    add_run(tmp_path, "grpo", 1, 0.0)  # a seed that the wide clip range did not run on
    assert "0.000 M tokens (seed 0):" in (text := tables(tmp_path / "runs.jsonl"))
    assert "+50.0 (one seed)" in text.partition("on the same seeds")[2]


def test_all_runs_of_a_seed_began_with_the_weights_that_are_kept() -> None:
    records = runs.read(RESULTS)
    assert records
    for each in records:
        assert each["warm_start"] == fingerprint(warm_start_file(each["seed"])), (each["arm"], each["seed"])


def test_a_kept_warm_start_is_taken(tmp_path: Path) -> None:
    assert str(warm_start_file(0)) in preparation(tmp_path, 0)
    prepare(tmp_path, 0, HOPS, warm_start_file(0))
    assert fingerprint(tmp_path / "model" / "model.safetensors") == fingerprint(warm_start_file(0))
    model = Qwen3ForCausalLM.from_pretrained(tmp_path / "model")
    assert model.generation_config.eos_token_id is not None


def test_turn_credit_is_compared_with_the_mean_over_the_leaves_of_a_shared_turn() -> None:
    def node(index: int, parent: int, tokens: int, advantage: float, reward: float | None = None) -> dict[str, object]:
        numbers = {"index": index, "parent": parent, "tokens": tokens, "advantage": advantage, "reward": reward}
        return {**numbers, "is_leaf": reward is not None}

    first = [node(1, 0, 10, 0.2), node(2, 1, 5, 1.0, reward=1.0), node(3, 1, 5, -1.0, reward=0.0)]
    second = [node(4, 0, 30, 1.0), node(5, 4, 5, 1.0, reward=1.0), node(6, 4, 5, 0.0, reward=0.5)]
    telling, silent = {"nodes": first + second}, {"nodes": [node(1, 0, 10, 0.0), node(2, 1, 5, 0.0, reward=1.0)]}
    assert shared_turns(telling) == ([(0.2, 0.0, 20), (1.0, 0.5, 60)], 100)
    assert compare([silent]) is None
    figures = compare([telling, silent])
    assert figures is not None
    assert (figures["trees"], figures["shared"]) == (1, pytest.approx(0.8))
    assert figures["correlation"] == pytest.approx(1.0)  # two points
    assert figures["difference"] == pytest.approx(math.sqrt((0.2**2 * 20 + 0.5**2 * 60) / (0.5**2 * 60)))


def test_credit_is_compared_in_finished_runs_on_values_only(tmp_path: Path) -> None:
    add_run(tmp_path, "atpo", 0, 0.5)
    add_run(tmp_path, "atpo_diff_parent", 0, 0.5)
    finished = [arm for arm in ARMS if trains_on_values(tmp_path / "runs.jsonl", f"{arm}_0")]
    assert finished == ["atpo"]


@pytest.mark.parametrize("baseline", [GRPO, PACKED_GRPO])
def test_the_clock_of_two_arms_is_compared_seed_by_seed(tmp_path: Path, baseline: str) -> None:
    for arm, seconds, last in ((baseline, 2.0, 0.5), ("clock_tree_packed", 1.0, 1.0)):
        for seed in (0, 1):
            metrics = metrics_file(tmp_path, [10.0, 10.0], {0: 0.0, 2: last})
            content = record(arm, seed, (), read_steps(metrics), 1.0)
            content["steps"]["seconds"] = [seconds, seconds]
            runs.append(tmp_path / "runs.jsonl", content)
    heading, _, own, ours = table(tmp_path / "runs.jsonl", baseline).splitlines()
    assert heading.count(f"over {WALL_CLOCK[baseline].title} there") == 2
    assert [cell.strip() for cell in own.split("|")][2:4] == ["2", "25.0% ± 0.0"]  # half way, when the tree has ended
    assert [cell.strip() for cell in ours.split("|")][3:8] == [
        "100.0% ± 0.0", "+75.0 ± 0.0", "100.0% ± 0.0", "+50.0 ± 0.0", "1.0"
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_docs_say_what_the_result_files_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<!-- begin" in text
    assert filled(text) == text, "run python -m benchmarks.report"
