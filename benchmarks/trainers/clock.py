"""Notes when the trainer puts the engine to sleep and wakes it.

To be imported in the trainer's process (`actor_rollout_ref.model.external_lib`). verl has no hook for a user there, so
``on_sample_end`` and ``on_step_end`` of the two trainers are wrapped; a benchmark's tool only.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from benchmarks.trainers.notes import ASLEEP, AWAKE, note


def _wrap(trainer: Any) -> None:
    asleep, awake = trainer.on_sample_end, trainer.on_step_end

    @functools.wraps(asleep)
    def on_sample_end(self: Any) -> None:
        note(ASLEEP, time.time())
        asleep(self)

    @functools.wraps(awake)
    def on_step_end(self: Any) -> None:
        awake(self)
        note(AWAKE, time.time())

    trainer.on_sample_end, trainer.on_step_end = on_sample_end, on_step_end


for _trainer in (PPOTrainerSync, PPOTrainerColocateAsync):
    _wrap(_trainer)
