"""Load on the actors that all nodes share: verl's router of requests, and TransferQueue's controller."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.workers.rollout.router import get_router_handle

TURNS = 3_000
"""Requests that are routed."""
AT_A_TIME = 256
POLLS = 3
CHUNK = 22


def measure_central(prompts: int, leaves: int, engines: int) -> list[dict[str, Any]]:
    """Measure the calls per second of each from one process, and the time of a trainer's poll.

    Args:
        prompts, leaves: entries that TransferQueue holds: prompts, and rows of each.
        engines: that the router knows.
    """
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        routed = asyncio.run(_routed_per_s(prompts, engines))
        put, poll_s = _transfer_queue(prompts, leaves)
    finally:
        tq.close()
        ray.shutdown()
    entries = prompts * (leaves + 1)
    return [
        {"what": "router: turns routed a second", "entries": prompts, "measured": routed},
        {"what": "TransferQueue: rows put a second (small ones)", "entries": entries, "measured": put},
        {"what": "TransferQueue: a poll of the trainer, s", "entries": entries, "measured": poll_s},
    ]


async def _routed_per_s(prompts: int, engines: int) -> float:
    router = get_router_handle({f"engine {number}": None for number in range(engines)})
    await router.require_acquire_fields.remote()  # it is up
    ids = iter(range(TURNS))

    async def client() -> None:
        for number in ids:
            server, _ = await router.acquire_server.remote(request_id=f"tree {number % prompts}")
            router.release_server.remote(server_id=server)

    started = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(AT_A_TIME)])
    return TURNS / (time.perf_counter() - started)


def _transfer_queue(prompts: int, leaves: int) -> tuple[float, float]:
    """Rows put a second, and seconds in which all entries are listed."""
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 2, "total_storage_size": None}}}))
    row = TensorDict({"rm_scores": torch.zeros(CHUNK, 4)}, batch_size=CHUNK)
    started = time.perf_counter()
    for prompt in range(prompts):
        keys = [f"{prompt}_{leaf}_0" for leaf in range(leaves)]
        tags = [{"status": "success", "global_steps": 1} for _ in keys]
        tq.kv_batch_put(keys=keys, partition_id="train", fields=row[:leaves], tags=tags)
        tq.kv_put(
            key=str(prompt), partition_id="train", tag={"is_prompt": True, "status": "finished", "global_steps": 1}
        )
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(POLLS):
        tq.kv_list()
    return prompts * leaves / seconds, (time.perf_counter() - started) / POLLS
