"""Costs to reach an accuracy, worked by hand; intervals and tests on numbers whose answers are known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from benchmarks import markdown, runs
from benchmarks.lab import frontier, parts
from benchmarks.lab.agreement import table
from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.clock import TIMED, measure, schedule_of, summary
from benchmarks.lab.curves import (
    COSTS,
    Curve,
    interquartile_mean,
    interval,
    log_ratio,
    over_gain,
    p_values,
    paired,
)
from benchmarks.lab.report import (
    NONE_YET,
    accuracies,
    clock,
    costs,
    levels,
    part_table,
    relative_cost,
    to_train,
    tried,
)


def curve(arm: str, accuracy: list[float], tokens: list[float], world: int = 1, seed: int = 0) -> Curve:
    return Curve("hopqa", arm, world, seed, tuple(accuracy), {name: tuple(tokens) for name in COSTS})


SLOW = curve("grpo", [0.1, 0.4, 0.8], [0, 100, 200])
FAST = curve("tree_4", [0.1, 0.6, 0.9], [0, 80, 150])


def test_cost_lies_on_the_line_between_two_validations() -> None:
    # 0.5 is a quarter of the way from 0.4 (100) to 0.8 (200)
    assert SLOW.cost_to_reach(0.5, "sampled_tokens") == pytest.approx(125)
    assert SLOW.cost_to_reach(0.8, "sampled_tokens") == pytest.approx(200)
    assert SLOW.cost_to_reach(0.81, "sampled_tokens") == math.inf
    assert SLOW.cost_to_reach(0.05, "sampled_tokens") == 0


def test_first_time_counts_where_a_curve_falls_again() -> None:
    assert curve("tree_4", [0.0, 0.6, 0.2, 0.9], [0, 10, 20, 30]).cost_to_reach(0.3, "step") == pytest.approx(5)


def test_mean_height_is_the_area_under_the_curve() -> None:
    # to 150: (0.1 + 0.4) / 2 * 100 + (0.4 + 0.6) / 2 * 50 = 50, over 150
    assert SLOW.mean_until(150, "step") == pytest.approx(1 / 3)


def test_a_run_that_never_came_there_counts_as_its_end() -> None:
    # FAST reaches 0.85 at 80 + (0.85 - 0.6) / 0.3 * 70 = 138.33; SLOW is censored at 200
    figure = log_ratio(0.85, "sampled_tokens")
    assert figure(FAST, SLOW) == pytest.approx(math.log(138.3333 / 200), abs=1e-5)
    assert figure(SLOW, FAST) == pytest.approx(-figure(FAST, SLOW))
    assert log_ratio(0.95, "sampled_tokens")(FAST, SLOW) == 0.0  # neither did


def test_a_ratio_may_be_of_two_kinds_of_cost() -> None:
    """FAST's distinct tokens to 0.8, 126.67, over SLOW's in rows, five times 200; where neither came, 0."""
    rows = {**SLOW.cost, "trained_tokens_in_rows": (0.0, 500.0, 1000.0)}
    slow = dataclasses.replace(SLOW, cost=rows)
    kinds = ("trained_tokens_distinct", "trained_tokens_in_rows")
    assert log_ratio(0.8, *kinds)(FAST, slow) == pytest.approx(math.log(126.6667 / 1000), abs=1e-5)
    assert log_ratio(0.8, *kinds)(slow, slow) == pytest.approx(math.log(0.2))
    assert log_ratio(0.85, *kinds)(FAST, slow) == pytest.approx(math.log(138.3333 / 1000), abs=1e-5)
    assert log_ratio(0.95, *kinds)(FAST, slow) == 0.0


def test_points_over_grpo_are_over_as_many_steps() -> None:
    """To step 150 FAST is at (0.35 * 80 + 0.75 * 70) / 150 = 0.537 in the mean, SLOW at 1/3."""
    *_, grpo, tree = levels([SLOW, FAST], 0.5).splitlines()
    assert "20.3" not in grpo and "| +20.3 [+20.3, +20.3] " in tree


def test_a_target_may_be_a_share_of_what_grpo_gains() -> None:
    """SLOW gains from 0.1 to (0.4 + 0.8) / 2 = 0.6; half of that is 0.35, which FAST comes to at half of 80."""
    alone = curve("tree_4", [0.1, 0.6, 0.9], [0, 80, 150], seed=1)
    level = curve("grpo", [0.5, 0.4, 0.6], [0, 80, 150], seed=2)
    slow, fast = over_gain([SLOW, FAST, alone, level], "grpo")
    assert (slow.scale, slow.arm, fast.scale, fast.arm) == ((0.1, pytest.approx(0.6)), "grpo", slow.scale, "tree_4")
    assert fast.cost_to_reach(0.5, "step") == pytest.approx(40)
    assert slow.cost_to_reach(0.5, "step") == pytest.approx(250 / 3)
    assert fast.at_step(40) == pytest.approx(0.35)


def test_pairs_share_world_and_seed() -> None:
    others = [dataclasses.replace(SLOW, seed=1), dataclasses.replace(FAST, seed=2)]
    assert paired([SLOW, FAST, *others], "tree_4", "grpo", lambda a, b: a.seed + b.seed) == {1: [0]}


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


def write_runs(table: Path) -> None:
    """SLOW and FAST as a table of runs; rows hold ten times the tokens."""
    for each in (SLOW, FAST):
        points = [
            {"accuracy": accuracy, **dict.fromkeys(COSTS, cost), "trained_tokens_in_rows": 10 * cost}
            for accuracy, cost in zip(each.accuracy, each.cost["step"], strict=True)
        ]
        record = {"task": "hopqa", "arm": each.arm, "world": each.world, "seed": 0, "curve": points}
        runs.append(table, record)


def cells(said: str) -> dict[str, dict[str, str]]:
    """A Markdown table, by its first column and by heading."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_tables_are_made_of_files(tmp_path) -> None:
    tmp_path /= "runs.jsonl"
    write_runs(tmp_path)
    # FAST reaches 0.8 at 80 + 2 / 3 * 70 = 126.67, SLOW at 200: 0.63; SLOW's rows hold 2000 then.
    table = cells(costs(tmp_path, "hopqa"))
    ours, grpo = table["AT²PO, 4 + 12 trajectories"], table["GRPO"]
    assert ours["sampled tokens to 80%"] == ours["steps to 80%"] == "0.63 [0.63, 0.63]"
    assert (ours["p, sampled"], grpo["p, sampled"]) == ("1", "")  # one pair: Wilcoxon's p is 1
    trained = cells(costs(tmp_path, "hopqa", to_train))
    ours, grpo = trained["AT²PO, 4 + 12 trajectories"], trained["GRPO"]
    for kind in ("distinct, over GRPO's distinct", "in rows, over GRPO's rows"):
        assert (ours[kind], grpo[kind]) == ("0.63 [0.63, 0.63]", "1")
    assert ours["distinct, over GRPO's rows"] == "0.06 [0.06, 0.06]"
    assert grpo["distinct, over GRPO's rows"] == "0.10 [0.10, 0.10]"
    assert costs(tmp_path, "text_world") == accuracies(tmp_path, "text_world") == NONE_YET


def test_a_relative_cost_is_a_change_in_per_cent() -> None:
    # 126.67 instead of 200: -37 %; one pair, so the interval is the point.
    cost = relative_cost([SLOW, FAST], "tree_4", 0.8)
    assert cost is not None and (cost.change, cost.change_interval, cost.runs) == ("-37 %", "-37 to -37 %", 1)
    assert relative_cost([SLOW, FAST], "grpo_8", 0.8) is None


def test_a_table_wider_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="8 columns"):
        markdown.table([dict.fromkeys(range(8), "")])


def test_a_part_is_compared_with_the_same_arm_without_it() -> None:
    curves = [dataclasses.replace(each, world=world) for each in (SLOW, FAST) for world in (1, 2)]
    curves = [dataclasses.replace(each, arm="tree_4_random") if each.arm == "grpo" else each for each in curves]
    (part,) = cells(parts.table(curves, 0.8)).values()
    assert (part["with it"], part["without it"], part["paired runs"]) == (
        "AT²PO, 4 + 12 trajectories",
        "tree, random expansion",
        "2",
    )
    assert part["steps to 80%"] == part["sampled tokens to 80%"] == "0.63 [0.63, 0.63]"
    assert part["p, steps"] == part["p, sampled tokens"] == "0.5"


def test_pilot_worlds_count_for_learning_rates_only(tmp_path) -> None:
    tmp_path /= "runs.jsonl"
    write_runs(tmp_path)
    for arm, world in (("gspo", 4), ("gspo_lr0.001", 4), ("gspo_lr0.001", 1)):
        tree = runs.find(tmp_path, task="hopqa", arm="tree_4", world=1, seed=0)
        assert tree is not None
        runs.append(tmp_path, tree | {"arm": arm, "world": world})
    found = cells(tried(tmp_path, "hopqa"))
    assert {arm: row["runs"] for arm, row in found.items()} == {
        "GSPO": "1", "GSPO, learning rate 0.001": "1"
    }  # fmt: skip
    assert "learning rate" not in costs(tmp_path, "hopqa") + part_table(tmp_path, "hopqa")


def test_rollout_time_is_that_of_a_step_times_the_steps(tmp_path) -> None:
    table_of_runs = tmp_path / "runs.jsonl"
    write_runs(table_of_runs)
    timed = [
        {"arm": arm, "seed": seed, "seconds": seconds}
        for arm, each in (("grpo", (10, 20, 30)), ("tree_4", (20, 30, 90)), ("rounds_4", (10, 20, 15)))
        for seed, seconds in enumerate(each)
    ]
    # Ratios of tree: 2, 1.5, 3; of rounds_4: 1, 1, 0.5.
    assert [row["over grpo"] for row in summary(timed)] == [1, 2, 1]
    assert [row["seconds"] for row in summary(timed)] == [20, 30, 15]
    file = tmp_path / "clock" / "lab_clock.json"
    assert clock(file, table_of_runs) == "The simulation has not run yet."
    file.parent.mkdir()
    kept = {"prompts": 64, "engines": 2, "tools": "slow"}
    file.write_text(json.dumps({"settings": kept, "rows": summary(timed), "runs": timed}))
    said, _, lines = clock(file, table_of_runs).partition("\n\n")
    assert said == "64 prompts, 2 engines, tools slow; medians over 3 seeds."
    table = cells(lines)
    assert table["AT²PO, 4 + 12 trajectories"]["rollout time to 80%"] == "1.27 [1.27, 1.27]"  # 2 * 0.6333
    assert table["GRPO"]["rollout time to 80%"] == "1"
    assert (
        table["tree of 4 chains in rounds"]["pairs"] == "0"
        and not table["tree of 4 chains in rounds"]["rollout time to 80%"]
    )


def test_each_arm_is_simulated_with_its_own_shape() -> None:
    shapes = [settings(ARMS[arm].overrides).atpo for arm in TIMED]
    assert [atpo.expansion.leaves for atpo in shapes] == [16] * 5 + [12]
    assert [schedule_of(atpo) for atpo in shapes] == [
        "chains",
        "rounds",
        "rounds",
        "continuous",
        "continuous",
        "continuous",
    ]
    small = measure("rounds_4", engines=1, tools="no latency", prompts=1, seed=0)
    assert small["seconds"] > 0 and round(small["leaves_per_s"] * small["seconds"]) == 16


def test_agreement_is_in_standard_errors(tmp_path) -> None:
    """Two seeds at 0.4 and 0.6 have variance 0.02; verl's run at 0.5 - 0.173 is sqrt(0.02 * 1.5) away.

    That would be one error, and its 64 questions where the laboratory asks 200 make it a little less:
    0.03 + 0.327 * 0.673 * (1 / 64 - 1 / 200) is 0.180 squared.
    """
    lab, in_verl = tmp_path / "lab.jsonl", tmp_path / "verl.jsonl"
    for seed, accuracy in enumerate((0.4, 0.6)):
        points = [{"accuracy": accuracy, **dict.fromkeys(COSTS, 1), "step": step} for step in (0, 10, 20)]
        record = {"task": "hopqa", "arm": "verl_grpo", "world": 3, "seed": seed, "curve": points}
        runs.append(lab, record)
    validation = [{"step": step, "accuracy": {"2hop": 0.5 - 0.03**0.5}} for step in (0, 10, 20)]
    kept = {"sampled_tokens": [1.0] * 20, "reward": [0.0] * 20, "seconds": [1.0] * 20}
    runs.append(in_verl, {"arm": "grpo", "seed": 3, "steps": kept, "validation": validation})
    said = table(lab, in_verl)
    assert said.count("+17.3 ± 18.0") == 2


def test_a_point_of_the_frontier_is_what_an_arm_takes_over_grpo() -> None:
    """To 0.6 FAST takes 80, SLOW 150; of an arm without a pair nothing is known."""
    found = frontier.point([SLOW, FAST], "tree_4", 0.6)
    assert found is not None
    assert [math.exp(each.estimate) for each in found] == pytest.approx([80 / 150] * 2)
    assert frontier.point([SLOW, FAST], "grpo_8", 0.6) is None


def test_the_frontier_is_drawn_where_grpo_always_comes(tmp_path: Path) -> None:
    slower = dataclasses.replace(SLOW, seed=1, accuracy=(0.1, 0.3, 0.6))
    assert frontier.target([SLOW, FAST, slower], (0.5, 0.6, 0.7)) == 0.6
    assert frontier.target([slower], (0.7, 0.8)) == 0.7
    for each in (SLOW, FAST):
        points = [dict.fromkeys(COSTS, tokens) | {"accuracy": height}
                  for height, tokens in zip(each.accuracy, each.cost["step"], strict=True)]  # fmt: skip
        record = {"task": "hopqa", "arm": each.arm, "world": 1, "seed": 0, "curve": points}
        runs.append(tmp_path / "runs.jsonl", record)
    frontier.draw(tmp_path / "runs.jsonl", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
