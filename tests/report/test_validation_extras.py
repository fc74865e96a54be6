"""Extras of rewards whose types differ between rows: validation goes on, and averages what is a number everywhere."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.metric_utils import process_validation_metrics
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from verl_atpo.report import validation_extras
from verl_atpo.report.validation_extras import average_numbers_only, averaged

MIXED = {"reward": [1.0, 0.0], "acc": [1, True], "hops": [2, "cut off"], "why": ["none", 3], "pred": [None, None]}


def test_a_number_in_some_rows_only_is_not_averaged_and_said_once(caplog, monkeypatch):
    monkeypatch.setattr(validation_extras, "_reported", set())
    update = PPOTrainer._val_metrics_update
    with pytest.raises(TypeError):  # as verl has it
        update(SimpleNamespace(), ["qa", "qa"], ["a", "a"], MIXED, [])
    undo = average_numbers_only()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                metrics = PPOTrainer._val_metrics_update(SimpleNamespace(), ["qa", "qa"], ["a", "a"], MIXED, [])
    finally:
        undo()
    assert metrics["val-core/qa/acc/mean@2"] == 1.0 and metrics["val-aux/qa/reward/mean@2"] == 0.5
    assert not any("hops" in name or "why" in name for name in metrics)
    assert caplog.text.count("'hops' as a number") == caplog.text.count("'why' as a number") == 1
    assert PPOTrainer._val_metrics_update is update


VALUES = st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400) | st.text(max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_any_column_passes_through_verls_validation(values):
    extras = averaged({"reward": [1.0] * len(values), "extra": values})
    assert [each is None for each in extras["extra"]] == [each is None for each in values]
    process_validation_metrics(["qa"] * len(values), ["a"] * len(values), extras)
