"""The same rows for two training runs: the first run keeps what its rollout gave it, later ones get that instead.

To be imported in the trainer's process (`actor_rollout_ref.model.external_lib`). `RECORDED_ROWS` names the folder, with
a file a step. Wraps ``PPOTrainer._balance_batch``, the first method that sees a step's rows; a test's tool only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

FOLDER = "RECORDED_ROWS"
_balance_batch = PPOTrainer._balance_batch


def _recorded(self: PPOTrainer, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> KVBatchMeta:
    batch.reorder(sorted(range(len(batch)), key=batch.keys.__getitem__))  # a prompt's rows get those of one prompt
    file = Path(os.environ[FOLDER]) / f"{self.global_steps}.pt"
    if file.exists():
        recorded = torch.load(file, weights_only=False)
        assert len(recorded["tags"]) == len(batch)
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=recorded["fields"])
        batch.tags = recorded["tags"]
    else:
        fields = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"fields": fields, "tags": batch.tags}, file)
    return _balance_batch(self, batch, *args, **kwargs)


PPOTrainer._balance_batch = _recorded  # type: ignore[method-assign]
