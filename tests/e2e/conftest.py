"""A real run that several tests look at: a start takes longer than a test."""

from __future__ import annotations

import pytest

from tests.assets.main_ppo import Run
from tests.assets.recorded_rows import FOLDER

PLAIN_STEPS = 2
RECORDS = "tests.assets.recorded_rows"
# One micro-batch and one pack, since verl averages some metrics over them; entropy and a reference model, so that there
# are their metrics, and a policy that moves away from it.
SAME_FOR_ALL = [
    f"trainer.total_training_steps={PLAIN_STEPS}",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
    "actor_rollout_ref.actor.entropy_coeff=0.01",
    "actor_rollout_ref.actor.use_kl_loss=True",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
    "actor_rollout_ref.actor.optim.lr=1e-3",
]


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps with verl's own engine, a validation before and after them; its rows are kept for other runs."""
    folder = tmp_path_factory.mktemp("plain")
    run = Run(
        folder,
        "words_loop",
        *SAME_FOR_ALL,
        f"actor_rollout_ref.model.external_lib={RECORDS}",
        f"trainer.test_freq={PLAIN_STEPS}",
        environment={FOLDER: str(folder / "recorded")},
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []
    return run
