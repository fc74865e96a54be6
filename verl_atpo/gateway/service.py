"""Service shared by a rollout worker's agents: the endpoint, a limit on running agents, and the count of crashes."""

from __future__ import annotations

import asyncio
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from verl_atpo.failure import TrajectoryBug
from verl_atpo.gateway.endpoint import Endpoint
from verl_atpo.gateway.settings import KEY, GatewayConfig

LEAST_JUDGED = 20
"""Least number of trajectories before the share of crashes is judged."""


class Crashes:
    """Counts crashed agents.

    Args:
        most: largest share of trajectories that may crash.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self.ended = self.crashed = 0

    def count(self, crash: str | None) -> None:
        """Count a trajectory.

        Args:
            crash: last output of a crashed agent; None if it ended well.

        Raises:
            TrajectoryBug: too many crashed.
        """
        self.ended += 1
        self.crashed += crash is not None
        if crash is not None and self.ended >= LEAST_JUDGED and self.crashed > self._most * self.ended:
            raise TrajectoryBug(
                f"{self.crashed} of {self.ended} agents crashed, more than {KEY}.max_crash_share={self._most:g} "
                f"allows. Remedy: fix the agent, or raise the share if the model causes them. The last one: {crash}"
            )


class Service:
    """The gateway of one worker; made by :func:`service_of`."""

    def __init__(self, config: GatewayConfig, tokenizer: Any) -> None:
        self.config = config
        self.endpoint = Endpoint(config, tokenizer)
        self.slots = asyncio.Semaphore(config.concurrency)
        self.crashes = Crashes(config.max_crash_share)
        self.executor = ThreadPoolExecutor(1, "verl_atpo_gateway")
        self.started = asyncio.Lock()

    async def close(self) -> None:
        """Stop the endpoint."""
        await self.endpoint.stop()
        self.executor.shutdown(wait=False)


_SERVICES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Service] = weakref.WeakKeyDictionary()


async def service_of(config: GatewayConfig, tokenizer: Any) -> Service:
    """Return the service of the running event loop, started when it is first asked for."""
    loop = asyncio.get_running_loop()
    service = _SERVICES.get(loop)
    if service is None:
        service = _SERVICES[loop] = Service(config, tokenizer)
    async with service.started:
        if not service.endpoint.port:
            await service.endpoint.start()
    return service


async def close_service() -> None:
    """Close the service of the running event loop, if there is one."""
    service = _SERVICES.pop(asyncio.get_running_loop(), None)
    if service is not None:
        await service.close()
