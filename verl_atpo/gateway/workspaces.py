"""The workspace of a trajectory whose agent gets one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any

from verl_atpo.deadlines.threads import in_thread
from verl_atpo.failure import TrajectoryBug
from verl_atpo.tools.row import without_nulls
from verl_atpo.tools.workspace import LocalProvider, LocalWorkspace, WorkspaceConfig, WorkspaceError
from verl_atpo.tools.workspace.config import Technique
from verl_atpo.tools.workspace.tool import provider_of

FIELD = "workspace"
"""Field of ``extra_info`` that holds what a row's workspace begins with."""


def agents_provider(config: WorkspaceConfig) -> LocalProvider:
    """Return the provider of agents' workspaces: plain folders, which programs outside the isolation see.

    Raises:
        ConfigError: it does not work on this machine.
    """
    provider = provider_of(dataclasses.replace(config, technique=Technique.COPY))
    assert isinstance(provider, LocalProvider)
    return provider


@contextlib.asynccontextmanager
async def workspace_of(
    config: WorkspaceConfig | None, extra_info: Mapping[str, Any]
) -> AsyncIterator[LocalWorkspace | None]:
    """Open the workspace of a trajectory, and close it at the end; nothing without settings.

    Args:
        config: settings of the workspaces, or None.
        extra_info: ``extra_info`` of the data row.

    Raises:
        TrajectoryBug: the row asks for what cannot be.
        ToolOutage: the workspace cannot be made.
    """
    if config is None:
        yield None
        return
    given = without_nulls(extra_info.get(FIELD)) or {}
    provider = await in_thread(agents_provider, config)
    try:
        workspace = await in_thread(provider.create, **given)
    except (WorkspaceError, TypeError) as error:
        raise TrajectoryBug(
            f"The row's extra_info.{FIELD} cannot work: {error} Remedy: expected `template`, a folder, and `files`, "
            "texts by relative path."
        ) from error
    try:
        yield workspace
    finally:
        await asyncio.shield(asyncio.ensure_future(in_thread(workspace.close)))
