"""verl's checkpoint engine ``gloo``, which sends new weights to separate engines on machines without accelerator.

verl's own engines (nccl, nixl, ...) need a device. This one broadcasts from the trainer's first rank to every worker of
the rollout over its own gloo group, which is remade for each update. ``+platform=cpu`` selects it for
``trainer.v1.trainer_mode=separate_async``.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Generator
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry
from verl.checkpoint_engine.base import TensorMeta, merge_weight_chunks, split_weight_chunks

NAME = "gloo"
TIMEOUT = timedelta(minutes=10)
OUTSIDE = -1
"""Rank of those workers of the trainer that only help to gather the weights."""

Weight = tuple[str, torch.Tensor]
Chunk = tuple[TensorMeta, torch.Tensor]


@CheckpointEngineRegistry.register(NAME)
class GlooCheckpointEngine(CheckpointEngine):
    """Checkpoint engine with broadcasts per bucket: sizes, metadata and bytes.

    Args:
        bucket_size: bytes that are sent at once.
        is_master: whether this is the trainer's first rank, which sends.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._bucket_size = bucket_size
        self._is_master = is_master
        self._store: dist.TCPStore | None = None
        self._group: Any = None

    def prepare(self) -> dict[str, Any]:
        """Open the store at which the group meets, on the sender, and return its address."""
        if not self._is_master:
            return {}
        host = ray.util.get_node_ip_address()
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        return {"address": (host, self._store.port)}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Return the arguments of :meth:`init_process_group` for the workers of trainer and rollout."""
        size, address = 1 + rollout_world_size, metadata[0]["address"]
        return (
            {
                "rank": [0] + [OUTSIDE] * (actor_wg_world_size - 1),
                "size": [size] * actor_wg_world_size,
                "address": [address] * actor_wg_world_size,
            },
            {
                "rank": list(range(1, size)),
                "size": [size] * rollout_world_size,
                "address": [address] * rollout_world_size,
            },
        )

    def init_process_group(self, rank: int, size: int, address: tuple[str, int]) -> None:  # type: ignore[override]
        """Join the group of ``size`` ranks at the sender's ``address``."""
        if rank == OUTSIDE:
            return
        if self._store is None:
            self._store = dist.TCPStore(*address, is_master=False, timeout=TIMEOUT)
        self._group = dist.ProcessGroupGloo(self._store, rank, size, TIMEOUT)

    def finalize(self) -> None:
        """Leave the group."""
        self._group = self._store = None

    @torch.no_grad()
    async def send_weights(self, weights: Generator[Weight, None, None], global_steps: int | None = None) -> None:
        """Send all weights; a rank outside the group only iterates over them, since all ranks gather each weight."""
        if self._group is None:
            for _ in weights:
                pass
            return
        bucket: list[Chunk] = []
        filled = 0
        async for meta, chunk in split_weight_chunks(weights, self._bucket_size):
            if filled + meta.chunk_size > self._bucket_size:
                await self._send(bucket)
                bucket, filled = [], 0
            assert chunk is not None  # it is with meta_only=True
            bucket.append((meta, chunk))
            filled += meta.chunk_size
        await self._send(bucket)
        await self._send([])

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[Weight]:  # type: ignore[override]
        """Yield names and weights as they arrive."""
        chunks: Any = self._received_chunks()  # verl's annotation knows no asynchronous ones
        async for name, weight in merge_weight_chunks(chunks, self._bucket_size):
            yield name, weight

    async def _send(self, bucket: list[Chunk]) -> None:
        header = pickle.dumps([meta for meta, _ in bucket])
        content = torch.cat([chunk for _, chunk in bucket]) if bucket else torch.empty(0, dtype=torch.uint8)
        await self._broadcast(torch.tensor([len(header), len(content)]))
        if bucket:
            await self._broadcast(torch.frombuffer(bytearray(header), dtype=torch.uint8))
            await self._broadcast(content)

    async def _received_chunks(self) -> AsyncIterator[Chunk]:
        while True:
            sizes = await self._broadcast(torch.empty(2, dtype=torch.int64))
            header_bytes, content_bytes = sizes.tolist()
            if not content_bytes:
                return
            header = await self._broadcast(torch.empty(header_bytes, dtype=torch.uint8))
            content = await self._broadcast(torch.empty(content_bytes, dtype=torch.uint8))
            metas: list[TensorMeta] = pickle.loads(header.numpy().tobytes())
            for meta, chunk in zip(metas, content.split([meta.chunk_size for meta in metas]), strict=True):
                yield meta, chunk.clone()  # aligned, independent of its offset in the bucket

    async def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        await asyncio.to_thread(self._group.broadcast([tensor], options).wait)
        return tensor
