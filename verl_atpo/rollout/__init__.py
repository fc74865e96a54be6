"""Sampling in place of verl's: of trees, or of chains that are recorded."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import a manager when verl asks for it by this package's name, not with every module of the package."""
    if name in ("ChainAgentLoopManager", "TreeAgentLoopManager"):
        from verl_atpo.rollout import manager

        return getattr(manager, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
