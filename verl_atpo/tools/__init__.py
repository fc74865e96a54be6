"""Tools, and the declarations by which expansions repeat their calls."""

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
