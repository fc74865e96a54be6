"""Settings of workspaces."""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import Field

from verl_atpo.settings import Count, Positive, PositiveAmount, settings
from verl_atpo.tools.sandbox.isolation import Isolation


class Technique(str, enum.Enum):
    """Way to keep the files of a workspace, which decides the cost of a snapshot and of a fork."""

    AUTO = "auto"
    """The first of ``overlay`` and ``copy`` that works here."""
    OVERLAY = "overlay"
    """Layers of changes (overlayfs): snapshot and fork copy nothing. Needs bubblewrap."""
    COPY = "copy"
    """A folder of its own: a snapshot copies changed files, a fork all, as reflinks where the file system has them."""


@settings
class WorkspaceConfig:
    """Settings of workspaces, under ``config`` in the tool's YAML."""

    isolation: Isolation = Isolation.AUTO
    """Isolation of the commands."""
    technique: Technique = Technique.AUTO
    """Way to keep the files."""
    folder: str | None = None
    """Existing folder under which workspaces are kept; null is the system's folder for temporary files."""
    readable: tuple[str, ...] = ()
    """Further files and folders that commands may read, such as a tool chain outside ``/usr``."""
    wall_s: PositiveAmount = 30.0
    """Seconds that one command may take."""
    memory_mb: Annotated[int, Field(ge=64, strict=True)] = 1024
    """Memory of all processes of a command together, in MiB."""
    processes: Annotated[int, Field(ge=4, strict=True)] = 128
    """Processes and threads of a command."""
    disk_mb: Positive = 256
    """Size of all files that a workspace adds to those it began with, in MiB."""
    files: Positive = 20_000
    """Files and folders that it may add."""
    temporary_mb: Count = 16
    """Size of ``/dev/shm``, which lives in memory, in MiB; only with bubblewrap."""
    free_mb: Count = 1024
    """Free space of the disk under ``folder``, in MiB, below which commands are stopped."""
    open_files: Annotated[int, Field(ge=16, strict=True)] = 256
    """File descriptors of a process."""
    niceness: Annotated[int, Field(ge=0, le=19, strict=True)] = 5
    """Niceness of the commands, so that the trainer gets the CPU first."""
    output_bytes: Annotated[int, Field(ge=100, strict=True)] = 8000
    """Longest output of a command that the model reads, in UTF-8; of a longer one the middle is left out."""
    written_mb: Positive = 16
    """Output after which a command is stopped, in MiB."""
    file_bytes: Positive = 1 << 20
    """Largest file that ``read``, ``write`` and ``edit`` handle."""
    start_s: PositiveAmount = 30.0
    """Seconds that the isolation may take to start; a longer start is an outage of the tool."""
