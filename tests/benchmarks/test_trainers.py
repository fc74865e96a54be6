"""The benchmark of trainers: where the engine's time went, and what its runs are."""

from __future__ import annotations

import importlib
import json
import sys
from unittest.mock import MagicMock

import pytest

from benchmarks.trainers.__main__ import ARMS, LEAVES, MODES, arguments
from benchmarks.trainers.notes import ASLEEP, AWAKE, GENERATION, NOTES_ENV, shares
from tests.assets.recipe_configs import compose_arguments
from verl_atpo.startup.checks import check_config


def generation(begin, end):
    return {"kind": GENERATION, "begin": begin, "end": end}


def test_where_the_engines_time_went():
    # Told from the end of the first step, at 10, to that of the last, at 30. The engine sleeps from 16 to 20 and from
    # 27 to 30. It works from 10 to 14 (begun before), from 15 to 16, while the generation waits until 20 and goes on to
    # 21, and from 23 to 25, where two overlap: 4 + 1 + 1 + 2 of 20 s. It waits at 14, from 21 to 23 and from 25 to 27.
    notes = [
        *({"kind": AWAKE, "begin": at, "end": at} for at in (30, 10, 20)),
        *({"kind": ASLEEP, "begin": at, "end": at} for at in (5, 16, 27)),
        *(generation(*span) for span in ((8, 14), (15, 21), (23, 25), (23.5, 24), (2, 4))),
    ]
    assert shares(notes) == {"steps": 2, "seconds": 20, "busy": 0.4, "asleep": 0.35, "waiting": 0.25}


@pytest.mark.parametrize("name", ["PPOTrainerSync", "PPOTrainerColocateAsync"])
def test_the_trainer_notes_when_the_engine_sleeps(name, tmp_path, monkeypatch):
    for module, trainer in (("trainer_sync", "PPOTrainerSync"), ("trainer_colocate_async", "PPOTrainerColocateAsync")):
        found = getattr(importlib.import_module(f"verl.trainer.ppo.v1.{module}"), trainer)
        for method in ("on_sample_end", "on_step_end"):
            monkeypatch.setattr(found, method, getattr(found, method))  # put back afterwards
    monkeypatch.delitem(sys.modules, "benchmarks.trainers.clock", raising=False)
    clock = importlib.import_module("benchmarks.trainers.clock")
    monkeypatch.setenv(NOTES_ENV, str(tmp_path / "notes"))
    trainer = object.__new__(getattr(clock, name))
    trainer.checkpoint_manager, trainer.curr_step_profile = MagicMock(), False
    trainer.timing_raw, trainer.global_steps = {}, 1
    trainer.on_sample_end()
    trainer.on_step_end()
    assert trainer.checkpoint_manager.sleep_replicas.call_count == 1  # verl's own still happens
    assert trainer.checkpoint_manager.update_weights.call_count == 1
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert [each["kind"] for each in notes] == [ASLEEP, AWAKE] and notes[0]["begin"] <= notes[1]["begin"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arm", ARMS)
def test_every_run_is_one_that_may_start(arm, mode, tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = compose_arguments(arguments(arm, mode, tmp_path, tmp_path, steps=3, seed=0))
    check_config(config)
    assert (config.actor_rollout_ref.rollout.n, config.trainer.v1.trainer_mode) == (LEAVES, mode)
    if arm != "chains":
        assert config.algorithm.atpo.expansion.schedule == arm
