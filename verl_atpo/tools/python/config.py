"""Settings of the Python tool."""

from __future__ import annotations

import dataclasses
import enum
import math

from verl_atpo.settings import require


class Isolation(str, enum.Enum):
    """What keeps model-written code away from everything else; ``docs/sandbox.md`` compares them."""

    AUTO = "auto"
    """The first of ``bubblewrap`` and ``landlock`` that works here; an error if neither does."""
    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own (files, processes, network), made by ``bwrap``, and a filter of system calls."""
    LANDLOCK = "landlock"
    """Files restricted by Landlock, all the rest by the filter of system calls."""
    LIMITS_ONLY = "limits_only"
    """Resource limits and a clean environment only: no protection against code that means harm."""


@dataclasses.dataclass(frozen=True)
class PythonConfig:
    """Settings of the tool, under ``config`` in its YAML.

    Attributes:
        isolation: what keeps the code in.
        python: the interpreter that runs it, with the packages installed there; ``None`` is the trainer's own.
        cpu_s: seconds of CPU that one call may use.
        wall_s: seconds that one call may take.
        start_s: seconds that an interpreter may take to start; a longer start is an outage of the tool.
        starts: interpreters that start at the same time, per process.
        memory_mb: address space of an interpreter, in MiB.
        disk_mb: size of its working folder, which lives in memory, in MiB; 0 for none. Only with bubblewrap.
        files: files and folders that it may make there.
        open_files: file descriptors.
        niceness: how far it stands back behind the trainer for the CPU, as ``nice`` has it.
        output_bytes: longest output of a call, in UTF-8; of a longer one the middle is left out.
        seed: of every source of randomness in Python, and of string hashes; equal calls see equal numbers.
    """

    isolation: Isolation = Isolation.AUTO
    python: str | None = None
    cpu_s: float = 5.0
    wall_s: float = 20.0
    start_s: float = 30.0
    starts: int = 8
    memory_mb: int = 1024
    disk_mb: int = 16
    files: int = 1000
    open_files: int = 64
    niceness: int = 5
    output_bytes: int = 8000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("cpu_s", "wall_s", "start_s"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"python.{name}", value, "a number of seconds above 0")
        least = {"starts": 1, "memory_mb": 64, "disk_mb": 0, "files": 1, "open_files": 16, "output_bytes": 100}
        for name, minimum in least.items():
            value = getattr(self, name)
            require(value >= minimum, f"python.{name}", value, f"an integer of at least {minimum}")
        require(0 <= self.niceness <= 19, "python.niceness", self.niceness, "an integer from 0 to 19")
        require(0 <= self.seed < 2**32, "python.seed", self.seed, "an integer from 0 to 4294967295")
