"""Figures and alarms of a run from its metrics, and metric files that somebody else wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from verl_atpo.view import charts
from verl_atpo.view.compare_page import metrics_of
from verl_atpo.view.demo import write_demo
from verl_atpo.view.health import State, alarms, duration, figures
from verl_atpo.view.metrics import MetricFiles
from verl_atpo.view.run import Run
from verl_atpo.view.run_names import label, when
from verl_atpo.view.selections import bars, selections_of, total


def course(*values: float) -> list[tuple[int, float]]:
    return list(enumerate(values, 1))


@pytest.mark.parametrize(
    ("name", "metric", "values", "state"),
    [
        ("gradient norm", "actor/grad_norm", (1, 1.2, 0.9, 1.1, 1, 1.3), State.FINE),
        ("gradient norm", "actor/grad_norm", (1, 1.2, 0.9, 1.1, 1, 13), State.ODD),
        ("entropy", "actor/entropy", (1, 0.9, 0.8, 0.5, 0.3, 0.2), State.FINE),
        ("entropy", "actor/entropy", (1, 0.9, 0.8, 0.5, 0.3, 0.09), State.ODD),
        ("clipped", "actor/pg_clipfrac", (0.1, 0.51), State.ODD),
        ("KL", "actor/ppo_kl", (0.001, -0.6), State.ODD),
        ("equal rewards", "atpo/equal_rewards_share", (0.2, 0.95), State.BAD),
        ("reward", "critic/score/mean", (0.0,), State.FINE),
    ],
)
def test_a_figure_has_a_state(name: str, metric: str, values: tuple[float, ...], state: State) -> None:
    (figure,) = figures({metric: course(*values)}, {})
    assert (figure.name, figure.state, float(figure.value)) == (name, state, values[-1])


def test_a_figure_that_is_not_finite_is_said() -> None:
    (figure,) = figures({"actor/grad_norm": course(1.0, 2.0)}, {"actor/grad_norm": 3})
    assert (figure.value, figure.state) == ("NaN", State.BAD) and "since step 3" in figure.words
    (figure,) = figures({"actor/grad_norm": course(1.0, 2.0, 3.0, 4.0)}, {"actor/grad_norm": 3})  # and has recovered
    assert figure.state is State.FINE
    assert figures({}, {}) == []


def test_alarms_name_what_is_wrong() -> None:
    equal = {"atpo/equal_rewards_share": course(0.5, 1.0, 1.0, 1.0)}
    assert alarms(equal, None) == ["The last 3 steps taught nothing: the rewards inside every tree were equal."]
    assert alarms({"atpo/equal_rewards_share": course(1.0, 1.0, 1.0, 0.9)}, None) == []
    assert "had one turn" in alarms({"atpo/depth/max": course(1, 1, 1), "atpo/branched_turn": course(0, 0, 0)}, None)[0]
    assert alarms({"atpo/depth/max": course(1, 1, 1)}, None) == []  # chains of a loop of one turn
    assert alarms({"atpo/useless_steps": course(1, 2, 3)}, None) == [
        "The last 3 steps taught nothing: the log says why."
    ]
    assert alarms({"atpo/useless_steps": course(2, 3, 0)}, None) == []
    tools = {"atpo/tool_calls": course(4, 4, 4), "atpo/tool_errors": course(4, 4, 4)}
    assert "every tool call failed" in alarms(tools, None)[0]
    assert alarms({**tools, "atpo/tool_errors": course(4, 4, 3)}, None) == []


def test_a_run_that_writes_nothing_is_noticed_by_the_length_of_its_steps() -> None:
    slow = {"timing_s/step": course(600.0, 600.0)}
    assert alarms(slow, 2900.0) == []
    assert alarms(slow, 3100.0) == ["No news for 52 min, and a step took 10 min: the run has ended, waits for "
                                    "something, or died."]  # fmt: skip
    assert alarms({}, 119.0) == [] and "No news for 2 min" in alarms({}, 130.0)[0]
    assert [duration(each) for each in (40, 720, 12600, 180000)] == ["40 s", "12 min", "3.5 h", "2.1 days"]


def test_odd_metric_files_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    lines = ["nonsense", "[" * 100_000, "[1]", '{"step": "x", "data": {}}', '{"step": 2, "data": [1]}',
             '{"step": 3, "data": {"a": 1, "b": "text", "c": NaN, "d": 1e400, "e": true, "f": [1]}}',
             '{"step": 1' + "0" * 400 + ', "data": {"a": 5}}', '{"step": 4, "data": {"a": 2']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {"a": 0.5}}\n' + "\n".join(lines))
    files = MetricFiles(tmp_path)
    files.update()
    assert files.series == {"a": [(1, 0.5), (3, 1.0)]} and files.not_finite == {"c": 3, "d": 3}
    assert files.changed_s == pytest.approx((tmp_path / "metrics.jsonl").stat().st_mtime)


def test_the_later_file_counts_where_two_starts_logged_a_step(tmp_path: Path) -> None:
    for number, (name, value) in enumerate((("b", 1.0), ("a", 2.0))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"step": 1, "data": {"x": value}}) + "\n")
        os.utime(path, (1000 + number, 1000 + number))
    files = MetricFiles(tmp_path)
    files.update()
    assert files.series == {"x": [(1, 2.0)]} and len(files.by_file) == 2


def test_charts_show_what_is_there() -> None:
    series = {"atpo/depth/mean": course(2), "atpo/nodes_per_tree": course(45), "atpo/tool_errors": course(0, 0),
              "atpo/trees_failed": course(0, 1)}  # fmt: skip
    shown = {group: charts.members(series, group) for group in charts.GROUPS}
    assert shown["turns of a trajectory"] == ["atpo/depth/mean"] and shown["size of trees"] == ["atpo/nodes_per_tree"]
    assert shown["trouble"] == ["atpo/trees_failed"]  # what never happened takes no place
    assert charts.options("trouble", series, [])["title"]["text"] == "trouble: none so far"
    many = {f"val-core/{number}": course(1) for number in range(50)}
    assert len(charts.members(many, "reward and accuracy")) == charts.MOST_SERIES
    assert charts.options("x", series, ["atpo/tool_errors"])["tooltip"]["renderMode"] == "richText"


def test_runs_are_named_by_folder_start_and_steps(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_demo(tmp_path / name, 16)
    run = Run(tmp_path, tmp_path / "cache")
    run.index.update()
    runs = run.index.runs()
    assert {label(each) for each in runs} == {
        f"{name}/trees, started 2026-01-02 03:04:05, steps 1 to 2, 16 trees" for name in ("one", "two")
    }
    assert run.index.means(runs[0].name, "leaves") == [(1, 16.0), (2, 16.0)]
    run.metrics.update()
    one, two = (metrics_of(run, each) for each in runs)
    assert one["atpo/trees"] == two["atpo/trees"] == [(1, 8.0), (2, 8.0)] and one is not two
    assert (when("20261301-000000-x"), when("name")) == ("20261301-000000-x", "name")


def test_selections_are_counted_among_candidates() -> None:
    call = [{"name": "search", "error": None}]
    nodes = [
        {"index": 1, "turn": 1, "is_leaf": False, "mean_nll": 0.3, "tool_calls": call},
        {"index": 2, "turn": 2, "is_leaf": True, "mean_nll": 9.0},
        {"index": 3, "turn": 1, "is_leaf": False, "mean_nll": 9.0},
    ]
    counts = selections_of({"selected": [0, 1, 1], "nodes": nodes})  # type: ignore[typeddict-item]
    assert counts == {
        "turn": {"0": [1, 1], "1": [2, 2]}, "nll": {"1": [1, 2], "12": [1, 0]},
        "tool": {"search": [1, 2], "no tool": [1, 0]},
    }  # fmt: skip
    both = total([counts, counts])
    assert both["turn"] == {"0": [2, 2], "1": [4, 4]}
    assert bars(both["nll"], "nll") == [("0.25", 200.0, "4/2"), ("3+", 0.0, "0/2")]
    assert bars(both["turn"], "turn")[0] == ("prompt", 100.0, "2/2")
    assert selections_of({"nodes": nodes})["turn"] == {}  # type: ignore[typeddict-item]
