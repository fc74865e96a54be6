"""Which Ray a run on the CPU platform uses: one of its own, unless a cluster was asked for.

Left alone, ``ray.init`` joins whatever cluster was started last on the machine: another user's, or a dead one. The
preset therefore always passes an address: ``RAY_ADDRESS`` where it is set, ``auto`` (the cluster of this machine) for a
run on several nodes, and ``local`` for all others. How many CPUs and devices there are is said to a Ray of one's own
only; a cluster knows it already, and ``ray.init`` refuses the arguments.
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
"""Ray's bookkeeping only: a placement group takes 3 a device, about 10 helper actors 1 each."""


def ray_address(*, _root_: DictConfig) -> str:
    """The address for ``ray.init``."""
    several = int(OmegaConf.select(_root_, "trainer.nnodes", default=1)) > 1
    return os.environ.get(ADDRESS_ENV) or (NEAREST if several else LOCAL)


def ray_cpus(*, _root_: DictConfig) -> int | None:
    """Logical CPUs of a Ray of one's own; None where a cluster is joined."""
    return LOGICAL_CPUS if _own_ray(_root_) else None


def ray_devices(*, _root_: DictConfig) -> int | None:
    """Logical devices of a Ray of one's own, as many as the run uses; None where a cluster is joined."""
    return devices(_root_) if _own_ray(_root_) else None


def devices(config: DictConfig) -> int:
    """Devices that verl's whole config asks for, on all nodes."""
    return sum(nodes * per_node for nodes, per_node in _pools(config))


def devices_per_node(config: DictConfig) -> int:
    """Devices that verl's whole config asks for on one machine."""
    return sum(per_node for _, per_node in _pools(config))


def _pools(config: DictConfig) -> list[tuple[int, int]]:
    """(nodes, devices a node) of the trainer, and of a rollout that is separate from it."""
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
    """Register the interpolations above with OmegaConf; calling it again changes nothing."""
    for resolver in (ray_address, ray_cpus, ray_devices):
        OmegaConf.register_new_resolver(f"verl_atpo.{resolver.__name__}", resolver, replace=True)
