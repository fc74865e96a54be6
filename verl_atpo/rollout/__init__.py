"""Sampling of trees in place of verl's chains."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import the manager when verl asks for it by this package's name, not with every module of the package."""
    if name == "TreeAgentLoopManager":
        from verl_atpo.rollout.manager import TreeAgentLoopManager

        return TreeAgentLoopManager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
