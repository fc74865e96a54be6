"""A program that runs a command in a workspace, for agents outside this process: no socket, no server.

:func:`make_program` writes a script into the store; an agent finds its path in the variable ``WORKSPACE_RUN``::

    "$WORKSPACE_RUN" 'pytest -q'
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from verl_atpo.settings import plain, read
from verl_atpo.tools.sandbox.isolation import Isolation
from verl_atpo.tools.workspace.config import WorkspaceConfig
from verl_atpo.tools.workspace.contract import WorkspaceError
from verl_atpo.tools.workspace.files import PARTS, Mount, Mounted
from verl_atpo.tools.workspace.jail import Jail
from verl_atpo.tools.workspace.runner import run
from verl_atpo.tools.workspace.trees import Usage, measure

SETTINGS, PROGRAM = "settings.json", "run"
STOPPED, FAILED = 124, 125
"""Exit codes: the command was stopped (as of the program timeout); the isolation failed."""
SCRIPT = """#!/bin/sh
PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}} exec {python} -m {module} {settings} "$@"
"""


class Folder(Mounted):
    """A plain folder that another process keeps.

    Args:
        folder: holds :data:`PARTS`.
        template: size of what it began with.
    """

    def __init__(self, folder: Path, template: Usage) -> None:
        self._folder, self._template = folder, template
        self.before = self.added()

    def mounts(self) -> tuple[Mount, ...]:
        """Return the folder of each part."""
        return tuple(Mount((), self._folder / part, None) for part in PARTS)

    def added(self, most: Usage | None = None) -> Usage:
        """Measure the folder, without the size of the template."""
        return sum((measure(self._folder / part) for part in PARTS), Usage()).without(self._template)


def make_program(jail: Jail, folder: Path, template: Usage) -> Path:
    """Write the program for one workspace; returns its path.

    Args:
        jail: the isolation of its commands.
        folder: holds :data:`PARTS`, and takes the program.
        template: size of what the files began with.
    """
    settings = {
        "isolation": jail.isolation.value,
        "proc": jail.proc,
        "drops": jail.drops,
        "config": plain(jail.config),
        "folder": str(folder),
        "template": [template.bytes, template.files],
    }
    (folder / SETTINGS).write_text(json.dumps(settings))
    root = Path(__file__).parents[3]
    script = SCRIPT.format(
        path=shlex.quote(str(root)),
        python=shlex.quote(sys.executable),
        module="verl_atpo.tools.workspace.shell",
        settings=shlex.quote(str(folder / SETTINGS)),
    )
    program = folder / PROGRAM
    program.write_text(script)
    program.chmod(0o700)
    return program


def main(arguments: list[str]) -> int:
    """Run the command of the command line with this process's standard input; returns its exit code."""
    path, *words = arguments
    command = words[0] if len(words) == 1 else shlex.join(words)
    settings: dict[str, Any] = json.loads(Path(path).read_text())
    config = read(WorkspaceConfig, settings["config"], "workspace")
    jail = Jail(Isolation(settings["isolation"]), config, settings["proc"], settings["drops"])
    folder = Folder(Path(settings["folder"]), Usage(*settings["template"]))
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read(config.file_bytes)
    try:
        done = run(jail, folder, command, stdin)
    except WorkspaceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return FAILED
    except Exception as error:  # ToolOutage
        print(f"The workspace failed: {error}", file=sys.stderr)
        return FAILED
    sys.stdout.buffer.write(done.output)
    sys.stdout.flush()
    if done.stopped is not None:
        print(f"[{done.stopped}]", file=sys.stderr)
    return STOPPED if done.exit_code is None else done.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
