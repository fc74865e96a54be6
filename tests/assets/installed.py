"""The package as a stranger gets it: built, and installed in an environment that knows nothing of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.assets.python_path import ROOT

BUILD_S, RUN_S = 300, 300


def repository_files() -> set[str]:
    """Everything that a commit of the working tree would hold."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name for name in names if (ROOT / name).is_file()}


def build(folder: Path) -> tuple[Path, Path]:
    """An sdist of the repository's files, and the wheel that is built from that sdist."""
    source, made = folder / "source", folder / "made"
    for name in repository_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source)]
    done = subprocess.run(command, cwd=folder, env=strangers_environment(), capture_output=True, timeout=BUILD_S)
    assert done.returncode == 0, done.stdout.decode()[-3000:] + done.stderr.decode()[-3000:]
    shutil.rmtree(source)
    (sdist,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    return sdist, wheel


def strangers_environment(**more: str) -> dict[str, str]:
    """The variables of a shell in which nobody has set anything for Python, verl or pytest."""
    ours = ("PYTHON", "PYTEST", "VERL", "ATPO", "RAY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel in it, and this environment's other packages behind it.

    Attributes:
        folder: of the environment; commands run in it.
    """

    folder: Path

    @classmethod
    def of(cls, wheel: Path, folder: Path) -> Installed:
        """Make the environment."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=BUILD_S)
        python = folder / "bin" / "python"
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*install, "--no-index", "--no-deps", str(wheel)], check=True, timeout=BUILD_S)
        # A folder on the path is no site folder: what its own .pth files say, an editable install too, is not followed.
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return cls(folder)

    def command(self, *words: str) -> list[str]:
        """``words`` with the environment's own program in front."""
        return [str(self.folder / "bin" / words[0]), *words[1:]]

    def run(self, *words: str, timeout_s: float = RUN_S, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command's end; its first word is a program of the environment."""
        return subprocess.run(
            self.command(*words), cwd=self.folder, env=strangers_environment(**environment),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            self.command(*words), cwd=self.folder, env=strangers_environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
