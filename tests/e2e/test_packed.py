"""The real thing with +train=packed: two steps of ``main_ppo`` on trees, against verl's own engine on the same rows."""

from __future__ import annotations

import pytest

from tests.assets.main_ppo import PROMPTS, Run
from tests.assets.recorded_rows import FOLDER

STEPS = 2
ROWS = "tests.assets.recorded_rows"
LIBRARY = "actor_rollout_ref.model.external_lib"
OWN = ("timing_", "perf/", "atpo/", "packed/", "actor/packed/", "actor/perf/", "training/global_step", "training/epoch")
"""What differs from run to run anyway, or is there in one of them only."""


@pytest.mark.e2e
def test_metrics_equal_those_of_unpacked_rows(tmp_path):
    runs = {"unpacked": f"{LIBRARY}={ROWS}", "packed": f"{LIBRARY}=[{ROWS},verl_atpo.training.activate]"}
    logged = {}
    for name, library in runs.items():
        (tmp_path / name).mkdir()
        run = Run(
            tmp_path / name,
            "words_loop",
            *(["+train=packed"] if name == "packed" else []),
            library,
            f"trainer.total_training_steps={STEPS}",
            "trainer.val_before_train=False",
            # One micro-batch and one pack, since verl averages some metrics over them.
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
            "actor_rollout_ref.actor.entropy_coeff=0.01",
            environment={FOLDER: str(tmp_path / "rows")},
        )
        assert run.wait() == 0, run.log[-5000:]
        assert run.left_over() == []
        logged[name] = [record["data"] for record in run.steps()]
        assert [record["step"] for record in run.steps()] == [1, 2]

    for unpacked, packed in zip(logged["unpacked"], logged["packed"], strict=True):
        shared = {name for name in unpacked if not name.startswith(OWN)}
        assert {"actor/entropy", "actor/grad_norm", "actor/pg_loss", "critic/score/mean"} < shared
        assert shared == {name for name in packed if not name.startswith(OWN)}
        for name in sorted(shared):
            assert packed[name] == pytest.approx(unpacked[name], rel=1e-4, abs=1e-5, nan_ok=True), name
        assert packed["packed/row_tokens_over_distinct"] > 1.2
        assert packed["actor/packed/packs"] == 1
        assert packed["actor/packed/run_tokens"] == packed["packed/distinct_tokens"] < packed["packed/row_tokens"]
        assert packed["atpo/trees"] == PROMPTS
