"""A small repository on disk: files of settings, checks that say what is wrong, and the tools of an agent.

Standard library only, so that a command line program starts fast.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

CHECKS = "checks.sh"
PASSED = "passed"


def _schema(name: str, description: str, *arguments: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    _schema("check", "Run the checks; says the first line that has to be in a file, or that all pass."),
    _schema("find", "Say in which file a name is set.", "name"),
    _schema("edit", "Put a line in the place of the one that sets the same name.", "file", "line"),
]
"""The tools, as chat completions describe them."""


def checks_script(wanted: list[str]) -> str:
    """A shell script that looks for each wanted line, and names the first that is missing."""
    lines = [f"grep -qx '{line}' settings/* || {{ echo '{line}'; exit 1; }}" for line in wanted]
    return "\n".join([*lines, f"echo {PASSED}", ""])


class Repository:
    """A repository in a folder of its own, which is removed at the end of the context.

    Args:
        extra_info: the data row's: ``files``, JSON of name to text, and ``checks``, the script.
    """

    def __init__(self, extra_info: Mapping[str, Any]) -> None:
        self._files: dict[str, str] = json.loads(extra_info["files"])
        self._checks = str(extra_info["checks"])
        self._tools: dict[str, Callable[..., str]] = {"check": self.check, "find": self.find, "edit": self.edit}

    def __enter__(self) -> Repository:
        self._temporary = tempfile.TemporaryDirectory(prefix="repository-")
        self.folder = Path(self._temporary.name)
        (self.folder / "settings").mkdir()
        for name, text in self._files.items():
            (self.folder / "settings" / name).write_text(text)
        (self.folder / CHECKS).write_text(self._checks)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.cleanup()

    def call(self, tool: str, arguments: str) -> str:
        """Call a tool with arguments as JSON; whatever is wrong with them is an answer for the model."""
        try:
            return self._tools[tool](**json.loads(arguments))
        except (KeyError, TypeError, ValueError) as error:
            return f"error {type(error).__name__}"

    def check(self) -> str:
        """Run the checks."""
        return self._shell("sh", CHECKS)

    def find(self, name: str) -> str:
        """Name the file that sets a name."""
        found = self._shell("grep", "-rlw", "-e", name, "settings")
        return found.removeprefix("settings/") or "nowhere"

    def edit(self, file: str, line: str) -> str:
        """Put a line in the place of the one that sets the same name."""
        path = self.folder / "settings" / Path(file).name
        if not path.is_file():
            return "no such file"
        lines, name = path.read_text().splitlines(), line.partition(" ")[0]
        if not any(old.partition(" ")[0] == name for old in lines):
            return "no such line"
        kept = [line if old.partition(" ")[0] == name else old for old in lines]
        path.write_text("\n".join(kept) + "\n")
        return "edited"

    def files(self) -> dict[str, str]:
        """Read all files, as the reward function wants them."""
        return {path.name: path.read_text() for path in sorted((self.folder / "settings").iterdir())}

    def _shell(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        return " ".join(done.stdout.split())
