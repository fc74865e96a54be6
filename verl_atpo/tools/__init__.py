"""Tools, and the declarations by which expansions repeat their calls.

Names are imported when they are first used: most need verl, and workspaces, which stand below, do not.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from verl_atpo.tools.answer import end_episode
    from verl_atpo.tools.contract import Branching, ToolOutage, TransientToolError
    from verl_atpo.tools.stateful import StatefulTool, action
    from verl_atpo.tools.text import harmless
    from verl_atpo.tools.toolbox import ToolAnswer, Toolbox

__all__ = [
    "Branching",
    "StatefulTool",
    "ToolAnswer",
    "ToolOutage",
    "Toolbox",
    "TransientToolError",
    "action",
    "end_episode",
    "harmless",
]

_MODULES = {
    "answer": ("end_episode",),
    "contract": ("Branching", "ToolOutage", "TransientToolError"),
    "stateful": ("StatefulTool", "action"),
    "text": ("harmless",),
    "toolbox": ("ToolAnswer", "Toolbox"),
}


def __getattr__(name: str) -> typing.Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
