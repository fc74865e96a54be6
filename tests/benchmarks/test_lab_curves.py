"""Costs to reach an accuracy, worked by hand; intervals and tests on numbers whose answers are known."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from benchmarks.lab.agreement import table
from benchmarks.lab.curves import COSTS, Curve, interquartile_mean, interval, log_ratio, p_values, paired, read_curves
from benchmarks.lab.report import ratios, tables


def curve(arm: str, accuracy: list[float], tokens: list[float], world: int = 0, seed: int = 0) -> Curve:
    return Curve("hopqa", arm, world, seed, tuple(accuracy), {name: tuple(tokens) for name in COSTS})


SLOW = curve("grpo", [0.1, 0.4, 0.8], [0, 100, 200])
FAST = curve("tree", [0.1, 0.6, 0.9], [0, 80, 150])


def test_cost_lies_on_the_line_between_two_validations() -> None:
    # 0.5 is a quarter of the way from 0.4 (100) to 0.8 (200)
    assert SLOW.cost_to_reach(0.5, "sampled_tokens") == pytest.approx(125)
    assert SLOW.cost_to_reach(0.8, "sampled_tokens") == pytest.approx(200)
    assert SLOW.cost_to_reach(0.81, "sampled_tokens") == math.inf
    assert SLOW.cost_to_reach(0.05, "sampled_tokens") == 0


def test_first_time_counts_where_a_curve_falls_again() -> None:
    assert curve("tree", [0.0, 0.6, 0.2, 0.9], [0, 10, 20, 30]).cost_to_reach(0.3, "step") == pytest.approx(5)


def test_mean_height_is_the_area_under_the_curve() -> None:
    # to 150: (0.1 + 0.4) / 2 * 100 + (0.4 + 0.6) / 2 * 50 = 50, over 150
    assert SLOW.mean_until(150, "step") == pytest.approx(1 / 3)


def test_a_run_that_never_came_there_counts_as_its_end() -> None:
    # FAST reaches 0.85 at 80 + (0.85 - 0.6) / 0.3 * 70 = 138.33; SLOW is censored at 200
    figure = log_ratio(0.85, "sampled_tokens")
    assert figure(FAST, SLOW) == pytest.approx(math.log(138.3333 / 200), abs=1e-5)
    assert figure(SLOW, FAST) == pytest.approx(-figure(FAST, SLOW))
    assert log_ratio(0.95, "sampled_tokens")(FAST, SLOW) == 0.0  # neither did


def test_pairs_share_world_and_seed() -> None:
    others = [dataclasses.replace(SLOW, seed=1), dataclasses.replace(FAST, seed=2)]
    assert paired([SLOW, FAST, *others], "tree", "grpo", lambda a, b: a.seed + b.seed) == {0: [0]}


def test_interval_of_equal_numbers_is_a_point_and_of_others_holds_the_mean() -> None:
    assert dataclasses.astuple(interval({0: [2.0] * 3, 1: [2.0] * 3})) == (2.0, 2.0, 2.0, 6)
    found = interval({0: [0.0, 1.0, 2.0], 1: [3.0, 4.0, 5.0]})
    assert found.low < found.estimate == 2.5 < found.high
    assert found.low >= 1.0  # world 1 is in every draw, so never all from world 0
    assert interquartile_mean([0, 1, 2, 100]) == 1.5
    single = interval({0: [0.0], 1: [1.0], 2: [2.0]})
    assert single.low < 1.0 < single.high


def test_holm_corrects_for_the_number_of_tests() -> None:
    one = {0: [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]}  # Wilcoxon, 6 of one sign: p = 2 / 2**6
    assert p_values({"a": one})["a"] == pytest.approx(2 / 64)
    assert p_values({"a": one, "b": {0: [0.0, 0.0]}}) == {"a": pytest.approx(4 / 64), "b": 1.0}


def test_tables_are_made_of_files(tmp_path) -> None:
    for each in (SLOW, FAST):
        points = [
            {"accuracy": accuracy, **dict.fromkeys(COSTS, cost)}
            for accuracy, cost in zip(each.accuracy, each.cost["step"], strict=True)
        ]
        record = {"task": "hopqa", "arm": each.arm, "world": 0, "seed": 0, "curve": points}
        (tmp_path / f"{each.arm}.json").write_text(json.dumps(record))
    # FAST reaches 0.8 at 80 + 2 / 3 * 70 = 126.67, SLOW at 200: 0.63
    assert "0.63 [0.63, 0.63]" in ratios(read_curves(tmp_path))
    assert "Text world**: no run is done yet" in tables(tmp_path)


def test_agreement_is_told_in_standard_errors(tmp_path) -> None:
    """Two seeds at 0.4 and 0.6 have variance 0.02; verl's run at 0.5 - 0.173 is sqrt(0.02 * 1.5) away: one error."""
    lab, in_verl = tmp_path / "lab", tmp_path / "verl"
    for folder in (lab, in_verl):
        folder.mkdir()
    for seed, accuracy in enumerate((0.4, 0.6)):
        points = [{"accuracy": accuracy, **dict.fromkeys(COSTS, 1), "step": step} for step in (0, 10, 20)]
        record = {"task": "hopqa", "arm": "verl_grpo", "world": 3, "seed": seed, "curve": points}
        (lab / f"{seed}.json").write_text(json.dumps(record))
    validation = [{"step": step, "accuracy": {"2hop": 0.5 - 0.03**0.5}} for step in (0, 10, 20)]
    kept = {"sampled_tokens": [1.0] * 20, "reward": [0.0] * 20, "seconds": [1.0] * 20}
    (in_verl / "grpo_3.json").write_text(
        json.dumps({"arm": "grpo", "seed": 3, "steps": kept, "validation": validation})
    )
    said = table(lab, in_verl)
    assert said.count("+17.3 ± 17.3") == 2
    assert said.count("+1.0") == 2
