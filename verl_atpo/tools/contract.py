"""Declarations of a tool for the tree rollout: treatment of its past calls, and errors that say who failed."""

from __future__ import annotations

import enum
from typing import Any

from verl.tools.function_tool import FunctionTool

from verl_atpo.failure import ToolOutage, TransientToolError

__all__ = ["Branching", "ToolOutage", "TransientToolError", "branching_of"]


class Branching(str, enum.Enum):
    """Treatment of the tool calls that an expansion shares; a tool's class attribute ``branching``."""

    STATELESS = "stateless"
    """A call depends on its arguments alone: what past calls returned is taken from the recording."""
    REPLAY = "replay"
    """Past calls are made again, in order, on a fresh state."""
    FORK = "fork"
    """Past calls are taken from the recording, and a snapshot of the state they left is restored."""


def branching_of(tool: Any) -> Branching:
    """Return the branching of ``tool``: what it declares, else stateless for function tools and replay for all others.

    verl's contract makes function tools stateless; any other tool that says nothing may hold state, and making its
    past calls again is right for both.
    """
    declared = getattr(tool, "branching", None)
    if declared is not None:
        return Branching(declared)
    return Branching.STATELESS if isinstance(tool, FunctionTool) else Branching.REPLAY
