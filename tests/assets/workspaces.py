"""Providers of workspaces with short limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_atpo.settings import ConfigError, read
from verl_atpo.tools.workspace import LocalProvider, WorkspaceConfig

WAYS = (("bubblewrap", "overlay"), ("bubblewrap", "copy"), ("landlock", "copy"))
LIMITS = {"wall_s": 20.0, "memory_mb": 300, "disk_mb": 8, "files": 300, "processes": 40, "free_mb": 100}


def make_provider(way: tuple[str, str], folder: Path, **settings: object) -> LocalProvider:
    """A provider of one isolation and technique; skips the test where they do not work."""
    isolation, technique = way
    config = {"isolation": isolation, "technique": technique, "folder": str(folder), **LIMITS, **settings}
    try:
        return LocalProvider(read(WorkspaceConfig, config, "workspace"))
    except ConfigError as error:
        if "could " in str(error):  # it works here, and is broken
            raise
        pytest.skip(str(error))
