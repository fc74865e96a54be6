"""Metrics that show the regime of a run, in tasks whose regime is known."""

from __future__ import annotations

from benchmarks.bias.regimes import measure, regimes
from benchmarks.bias.table import change


def test_metrics_tell_repeats_and_the_turn_that_decides() -> None:
    found = {
        (kind, repeats): measure(kind, repeats, 5, 0)
        for kind, repeats in (("early", 0.0), ("late", 0.0), ("late", 1.0))
    }
    assert found["early", 0.0]["context_repeats"] == found["late", 0.0]["context_repeats"] == 0.0
    assert found["late", 1.0]["context_repeats"] > 0.3
    assert found["early", 0.0]["undecided/1"] < 0.5 < found["late", 0.0]["undecided/3"]


def test_a_line_of_the_table_has_metrics_and_noise() -> None:
    lines = regimes().splitlines()
    assert len(lines) == 2 + 9
    assert lines[2].count("|") == lines[0].count("|") == 7


def test_a_change_that_rounds_to_zero_has_no_sign() -> None:
    assert [change(value, 100) for value in (66.0, 112.4, 99.8, 100.2)] == ["-34 %", "+12 %", "0 %", "0 %"]
