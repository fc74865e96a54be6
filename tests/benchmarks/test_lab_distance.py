"""Distance from the line of GRPO's sizes, worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import runs
from benchmarks.lab.curves import COSTS, Curve
from benchmarks.lab.distance import COMPARED, below, intervals, relative_costs, table

SIZES = ("grpo_8", "grpo")
LINE = {"grpo": (0.0, 0.0), "grpo_8": (-0.6, 0.3)}
"""Eight trajectories take exp(-0.6) of the tokens and exp(0.3) of the steps."""


@pytest.mark.parametrize(
    ("point", "tokens", "steps"),
    [
        ((-0.3, 0.15), 0.0, 0.0),  # on the line
        ((-0.5, 0.1), -0.3, -0.15),  # the line has -0.2 tokens at 0.1 steps, and 0.25 steps at -0.5 tokens
        ((-0.2, 0.2), 0.2, 0.1),  # above it
        ((-0.7, -0.1), -0.7, -0.4),  # beyond both ends: the largest size's tokens, the smallest size's steps
    ],
)
def test_distance_by_hand(point: tuple[float, float], tokens: float, steps: float) -> None:
    assert below([LINE | {"tree": point}], "tree", SIZES) == pytest.approx((tokens, steps), abs=1e-12)


def test_order_of_sizes_does_not_matter() -> None:
    costs = [LINE | {"grpo_12": (-0.2, 0.05), "tree": (-0.4, 0.1)}]
    assert below(costs, "tree", ("grpo", "grpo_12", "grpo_8")) == below(costs, "tree", ("grpo_8", "grpo", "grpo_12"))


def curve(arm: str, steps: float, tokens: float, world: int = 1, seed: int = 0) -> Curve:
    """A straight curve that reaches an accuracy of 1 after so many steps and tokens."""
    cost = {name: (0.0, tokens if name == "sampled_tokens" else steps) for name in COSTS}
    return Curve("hopqa", arm, world, seed, (0.0, 1.0), cost)


def test_only_runs_with_every_arm_count() -> None:
    curves = [curve("grpo", 20, 100), curve("grpo_8", 30, 50), curve("tree", 20, 60), curve("tree", 9, 9, seed=1)]
    costs = relative_costs(curves, ["tree", *SIZES], "grpo", 0.8)
    assert list(costs) == [(1, 0)]
    assert costs[1, 0]["tree"] == pytest.approx((math.log(0.6), 0.0))
    assert costs[1, 0]["grpo_8"] == pytest.approx((math.log(0.5), math.log(1.5)))


def test_equal_runs_have_no_interval() -> None:
    costs = {(world, seed): LINE | {"tree": (-0.5, 0.1)} for world in (1, 2) for seed in (0, 1)}
    for found, distance in zip(intervals(costs, "tree", SIZES), (-0.3, -0.15), strict=True):
        assert (found.estimate, found.low, found.high) == pytest.approx((distance,) * 3)
        assert found.runs == 4


def test_interval_covers_runs_that_differ() -> None:
    costs = {(1, seed): LINE | {"tree": (-0.5 + 0.01 * seed, 0.1)} for seed in range(8)}
    tokens, _ = intervals(costs, "tree", SIZES)
    assert -0.3 <= tokens.low < tokens.estimate < tokens.high <= -0.3 + 0.07


def test_table_says_it_in_per_cent(tmp_path: Path) -> None:
    """At half the line's tokens and as many steps as 16 trajectories need: -50 %."""
    cost = {"grpo": (20, 100), "grpo_12": (25, 75), "grpo_8": (30, 50), "tree": (20, 50)}
    for seed in (0, 1):
        for arm, (steps, tokens) in cost.items():
            points = [dict.fromkeys(COSTS, 0) | {"accuracy": 0.0},
                      dict.fromkeys(COSTS, steps) | {"sampled_tokens": tokens, "accuracy": 1.0}]  # fmt: skip
            record = {"task": "hopqa", "arm": arm, "world": 1, "seed": seed, "curve": points}
            runs.append(tmp_path / "runs.jsonl", record)
    (line,) = [each for each in table(tmp_path / "runs.jsonl").splitlines() if "tree" in each]
    assert "-50 % [-50, -50]" in line and "-33 % [-33, -33]" in line and "| 2 |" in line
    assert {task for task, _, _ in COMPARED} == {"hopqa", "text_world"}
