"""``torch.cpu`` with the functions that verl asks of an accelerator's namespace (``torch.cuda`` and its like).

Memory figures are those of the process and the machine, in bytes, so that verl's ``perf/max_memory_*`` metrics mean
something on a CPU. Functions that have no meaning here do nothing.
"""

import resource
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import get_rng_state, manual_seed, set_rng_state
from torch.cpu import (
    Stream,
    current_device,
    current_stream,
    device_count,
    is_available,
    set_device,
    stream,
    synchronize,
)

__all__ = [
    "Stream",
    "current_device",
    "current_stream",
    "device_count",
    "empty_cache",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "ipc_collect",
    "is_available",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "reset_peak_memory_stats",
    "set_device",
    "set_rng_state",
    "stream",
    "synchronize",
]


def empty_cache() -> None:
    """Do nothing: the host allocator keeps no cache that torch could empty."""


def ipc_collect() -> None:
    """Do nothing: there are no device memory handles shared between processes."""


def reset_peak_memory_stats(device: Any = None) -> None:
    """Do nothing: the operating system keeps the peak of a process for its whole life."""


def manual_seed_all(seed: int) -> None:
    """Seed the only generator there is."""
    torch.manual_seed(seed)


def get_device_name(device: Any = None) -> str:
    """Return ``CPU``, the name under which verl's FLOPS table knows a host."""
    return "CPU"


def get_device_properties(device: Any = None) -> SimpleNamespace:
    """Return ``name`` and ``total_memory`` (bytes), the properties verl reads."""
    return SimpleNamespace(name=get_device_name(), total_memory=psutil.virtual_memory().total)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Return the machine's (available, total) memory in bytes."""
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def memory_allocated(device: Any = None) -> int:
    """Return the resident memory of this process in bytes."""
    return psutil.Process().memory_info().rss


def max_memory_allocated(device: Any = None) -> int:
    """Return the peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


memory_reserved = memory_allocated
max_memory_reserved = max_memory_allocated
