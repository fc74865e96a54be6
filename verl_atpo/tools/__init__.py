"""Tools, and what a tool declares so that trees can branch around it."""

from verl_atpo.tools.contract import Branching, ToolOutage, TransientToolError
from verl_atpo.tools.stateful import StatefulTool

__all__ = ["Branching", "StatefulTool", "ToolOutage", "TransientToolError"]
