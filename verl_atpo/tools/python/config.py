"""Settings of the Python tool."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from verl_atpo.settings import Count, Positive, PositiveAmount, settings
from verl_atpo.tools.sandbox.isolation import Isolation


@settings
class PythonConfig:
    """Settings of the tool, under ``config`` in its YAML."""

    isolation: Isolation = Isolation.AUTO
    """Isolation of the code."""
    python: str | None = None
    """The interpreter that runs it, with the packages installed there; null is the trainer's own."""
    cpu_s: PositiveAmount = 5.0
    """Seconds of CPU that one call may use."""
    wall_s: PositiveAmount = 20.0
    """Seconds that one call may take."""
    start_s: PositiveAmount = 30.0
    """Seconds that an interpreter may take to start; a longer start is an outage of the tool."""
    starts: Positive = 8
    """Interpreters that start at the same time, per process."""
    memory_mb: Annotated[int, Field(ge=64, strict=True)] = 1024
    """Address space of an interpreter, in MiB."""
    disk_mb: Count = 16
    """Size of its working folder, which lives in memory, in MiB; 0 for none. Only with bubblewrap."""
    files: Positive = 1000
    """Files and folders that it may make there."""
    open_files: Annotated[int, Field(ge=16, strict=True)] = 64
    """File descriptors."""
    niceness: Annotated[int, Field(ge=0, le=19, strict=True)] = 5
    """Niceness of the interpreter, so that the trainer gets the CPU first (see ``nice``)."""
    output_bytes: Annotated[int, Field(ge=100, strict=True)] = 8000
    """Longest output of a call, in UTF-8; of a longer one the middle is left out."""
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    """Seed of every source of randomness in Python, string hashes included; equal calls see equal numbers."""
