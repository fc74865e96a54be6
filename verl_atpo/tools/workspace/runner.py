"""Run of one command on the files of a workspace, within its limits."""

from __future__ import annotations

import dataclasses

from verl_atpo.failure import ToolOutage
from verl_atpo.tools.workspace.command import Bounds, Command
from verl_atpo.tools.workspace.contract import Completed, WorkspaceError
from verl_atpo.tools.workspace.files import Mounted
from verl_atpo.tools.workspace.jail import Jail
from verl_atpo.tools.workspace.trees import hand_over
from verl_atpo.tools.workspace.usage import Watch

LONGEST_COMMAND = 100_000
"""Bytes; the kernel takes 131,072 for an argument."""


def run(
    jail: Jail, files: Mounted, command: str, stdin: bytes = b"", wall_s: float | None = None, output: int | None = None
) -> Completed:
    """Run a command; see :meth:`verl_atpo.tools.workspace.contract.Workspace.run`."""
    config, mounts = jail.config, files.mounts()
    if "\0" in command or len(command.encode("utf-8", "replace")) > LONGEST_COMMAND:
        raise WorkspaceError(f"A command is a text without null characters of at most {LONGEST_COMMAND} bytes.")
    bounds = Bounds(
        wall_s=config.wall_s if wall_s is None else min(wall_s, config.wall_s),
        output_bytes=config.output_bytes if output is None else output,
        written_bytes=config.written_mb << 20,
        start_s=config.start_s,
    )
    for mount in mounts:
        if jail.owner is not None and mount.work is None:  # an agent outside may have written here, too
            hand_over(mount.upper, jail.owner)
    watch = Watch(config, files, str(mounts[0].upper))
    text = command.encode("utf-8", "replace").decode()
    try:
        running = Command(
            lambda descriptor, held: jail.start(mounts, text, descriptor, held),
            jail.environment(mounts),
            "/" if jail.mounts else str(mounts[0].upper),
            stdin,
            jail.mounts,
        )
        done = running.run(bounds, watch)
    except OSError as error:
        raise ToolOutage(f"A workspace's command could not be started: {error!r}") from error
    done = dataclasses.replace(done, output=jail.seen(done.output, mounts))
    after = watch.after()
    return done if done.stopped else dataclasses.replace(done, stopped=after)
