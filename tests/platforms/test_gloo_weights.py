"""The checkpoint engine ``gloo``: a trainer of two ranks, a rollout of two workers, in one process each thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch

pytest.importorskip("verl.checkpoint_engine")

from verl_atpo.platforms import gloo_weights
from verl_atpo.platforms.gloo_weights import GlooCheckpointEngine

WEIGHTS = {
    "odd": torch.arange(7, dtype=torch.bfloat16),  # 14 bytes: what follows it in a bucket is not aligned
    "float": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "larger than a bucket": torch.arange(100, dtype=torch.float32),
    "scalar": torch.tensor(3.0),
}
BUCKET = 128


async def received(engine: GlooCheckpointEngine) -> dict[str, torch.Tensor]:
    return {name: weight.clone() async for name, weight in engine.receive_weights()}


def transfer(trainer: list[GlooCheckpointEngine], rollout: list[GlooCheckpointEngine]) -> list[dict]:
    """As verl's manager does it, every rank in a thread of its own; what the rollout's workers got."""
    engines = trainer + rollout
    metadata = [engine.prepare() for engine in engines]
    arguments = GlooCheckpointEngine.build_topology(len(trainer), len(rollout), metadata)
    per_rank = [
        {key: values[rank] for key, values in group.items()}
        for group, size in zip(arguments, (len(trainer), len(rollout)), strict=True)
        for rank in range(size)
    ]
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(lambda pair: pair[0].init_process_group(**pair[1]), zip(engines, per_rank, strict=True)))
        walked = [iter(WEIGHTS.items()) for _ in trainer]
        sent = [
            pool.submit(asyncio.run, engine.send_weights(weights))
            for engine, weights in zip(trainer, walked, strict=True)
        ]
        got = [pool.submit(asyncio.run, received(engine)) for engine in rollout]
        for future in sent:
            future.result(60)
        results = [future.result(60) for future in got]
    assert [list(weights) for weights in walked] == [[], []]  # gathering a weight takes all ranks of the trainer
    for engine in engines:
        engine.finalize()
    return results


def test_every_worker_gets_every_weight_bit_for_bit_and_again(monkeypatch):
    monkeypatch.setattr(gloo_weights, "TIMEOUT", timedelta(seconds=20))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    trainer = [GlooCheckpointEngine(BUCKET, is_master=rank == 0) for rank in range(2)]
    rollout = [GlooCheckpointEngine(BUCKET) for _ in range(2)]
    for _ in range(2):
        for weights in transfer(trainer, rollout):
            assert list(weights) == list(WEIGHTS)
            for name, weight in WEIGHTS.items():
                assert weights[name].dtype == weight.dtype
                assert torch.equal(weights[name], weight)
