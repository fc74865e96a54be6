"""Workspaces: folders in which commands of the model run, and which can be forked (docs/workspace.md)."""

from verl_atpo.tools.workspace.config import WorkspaceConfig
from verl_atpo.tools.workspace.contract import Completed, Provider, Workspace, WorkspaceError
from verl_atpo.tools.workspace.local import LocalProvider, LocalWorkspace

__all__ = ["Completed", "LocalProvider", "LocalWorkspace", "Provider", "Workspace", "WorkspaceConfig", "WorkspaceError"]
