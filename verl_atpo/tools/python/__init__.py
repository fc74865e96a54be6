"""The Python tool: model-written code in a sandbox (docs/sandbox.md)."""

from verl_atpo.tools.python.tool import PythonTool

__all__ = ["PythonTool"]
