"""The real thing with +train=packed: two steps of ``main_ppo`` on trees, against verl's own engine on the same rows."""

from __future__ import annotations

import pytest

from tests.assets.main_ppo import PROMPTS, Run
from tests.assets.recorded_rows import FOLDER
from tests.e2e.conftest import RECORDS, SAME_FOR_ALL

OWN = ("timing_", "perf/", "atpo/", "packed/", "actor/packed/", "actor/perf/", "training/global_step", "training/epoch")
"""What differs from run to run anyway, or is there in one of them only."""
VALIDATION = "val-"


@pytest.mark.e2e
def test_metrics_equal_those_of_unpacked_rows(plain_run, tmp_path):
    run = Run(
        tmp_path,
        "words_loop",
        *SAME_FOR_ALL,
        "+train=packed",
        f"actor_rollout_ref.model.external_lib=[{RECORDS},verl_atpo.training.activate]",
        "trainer.val_before_train=False",
        environment={FOLDER: str(plain_run.folder / "recorded")},
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []
    before, *unpacked_steps = plain_run.steps()
    assert before["step"] == 0
    for unpacked_step, packed_step in zip(unpacked_steps, run.steps(), strict=True):
        assert unpacked_step["step"] == packed_step["step"]
        unpacked, packed = unpacked_step["data"], packed_step["data"]
        shared = {name for name in unpacked if not name.startswith((*OWN, VALIDATION))}
        assert {"actor/entropy", "actor/grad_norm", "actor/pg_loss", "critic/score/mean"} < shared
        assert shared == {name for name in packed if not name.startswith((*OWN, VALIDATION))}
        for name in sorted(shared):
            assert packed[name] == pytest.approx(unpacked[name], rel=1e-4, abs=1e-5, nan_ok=True), name
        assert packed["packed/row_tokens_over_distinct"] > 1.2
        assert packed["actor/packed/packs"] == 1
        assert packed["actor/packed/run_tokens"] == packed["packed/distinct_tokens"] < packed["packed/row_tokens"]
        assert packed["atpo/trees"] == PROMPTS
