"""Choice of the Ray cluster for a run on the CPU platform: its own, unless an existing one is named.

By default ``ray.init`` joins the cluster that was started last on the machine: another user's, or a dead one. The
preset therefore always passes an address: ``RAY_ADDRESS`` if it is set, ``auto`` (the cluster of this machine) for a
run on several nodes, and ``local`` for all others. Numbers of CPUs and devices are passed only for a new cluster: an
existing one knows them, and ``ray.init`` refuses the arguments.
"""

from __future__ import annotations

import os

from omegaconf import DictConfig, OmegaConf

ADDRESS_ENV = "RAY_ADDRESS"
LOCAL = "local"
"""Ray's name for a cluster that ``ray.init`` starts and ends itself."""
NEAREST = "auto"
"""Ray's name for the cluster that was started on this machine with ``ray start``."""

ADDRESS = "${verl_atpo.ray_address:}"
CPUS = "${verl_atpo.ray_cpus:}"
DEVICES = "${verl_atpo.ray_devices:}"

LOGICAL_CPUS = 32
"""Logical CPUs, for Ray's bookkeeping only: a placement group takes 3 per device, about 10 helper actors 1 each."""


def ray_address(*, _root_: DictConfig) -> str:
    """Return the address for ``ray.init``."""
    several = int(OmegaConf.select(_root_, "trainer.nnodes", default=1)) > 1
    return os.environ.get(ADDRESS_ENV) or (NEAREST if several else LOCAL)


def ray_cpus(*, _root_: DictConfig) -> int | None:
    """Return the logical CPUs of the run's own Ray; None if an existing cluster is joined."""
    return LOGICAL_CPUS if _own_ray(_root_) else None


def ray_devices(*, _root_: DictConfig) -> int | None:
    """Return the logical devices of the run's own Ray; None if an existing cluster is joined."""
    return devices(_root_) if _own_ray(_root_) else None


def devices(config: DictConfig) -> int:
    """Return the number of devices that verl's config asks for, on all nodes."""
    return sum(nodes * per_node for nodes, per_node in _pools(config))


def devices_per_node(config: DictConfig) -> int:
    """Return the number of devices that verl's config asks for on one machine."""
    return sum(per_node for _, per_node in _pools(config))


def _pools(config: DictConfig) -> list[tuple[int, int]]:
    """Yield (nodes, devices per node) of the trainer, and of a separate rollout."""
    separate = OmegaConf.select(config, "trainer.v1.trainer_mode") == "separate_async"
    groups = ["trainer", "actor_rollout_ref.rollout"] if separate else ["trainer"]
    return [
        (
            int(OmegaConf.select(config, f"{group}.nnodes", default=1)),
            int(OmegaConf.select(config, f"{group}.n_gpus_per_node", default=1)),
        )
        for group in groups
    ]


def _own_ray(config: DictConfig) -> bool:
    return bool(OmegaConf.select(config, "ray_kwargs.ray_init.address") == LOCAL)


def register_resolvers() -> None:
    """Register this module's interpolations with OmegaConf; calling it again changes nothing."""
    for resolver in (ray_address, ray_cpus, ray_devices):
        OmegaConf.register_new_resolver(f"verl_atpo.{resolver.__name__}", resolver, replace=True)
