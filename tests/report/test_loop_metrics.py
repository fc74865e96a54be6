"""Numbers that an agent loop reports: read from its output, averaged over the trajectories that report them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from verl_atpo.report.loop_metrics import loop_metrics, reported_numbers


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"loop_metrics": {"calls": 3, "late": True}}, {"calls": 3.0, "late": 1.0}),
        ({"loop_metrics": {"calls": "3", "share": float("nan"), "none": None, "good": 0.5}}, {"good": 0.5}),
        ({"loop_metrics": [1, 2]}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_numbers_are_read_and_all_else_is_left_out(fields, numbers):
    assert reported_numbers(SimpleNamespace(extra_fields=fields)) == numbers


def test_an_output_without_extra_fields_reports_nothing():
    assert reported_numbers(SimpleNamespace()) == {}


def test_means_are_over_the_trajectories_that_report_a_number():
    assert loop_metrics([{"calls": 2.0}, {"calls": 5.0, "edits": 1.0}, {}]) == {"calls": 3.5, "edits": 1.0}
    assert loop_metrics([]) == {}
