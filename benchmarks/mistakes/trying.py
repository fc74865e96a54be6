"""Makes one mistake in a fresh project and checks it, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_module

from benchmarks.mistakes.project import make
from benchmarks.mistakes.table import Mistake
from verl_atpo.check import findings
from verl_atpo.startup.rules.rule import Run

ROOT = Path(__file__).parents[2]
MODULES = ("mistakes_guess", "mistakes_loop")
UNSET = ("WANDB_API_KEY", "WANDB_MODE", "HF_HUB_OFFLINE", "VERL_ATPO_REHEARSAL")
"""Variables that would hide a mistake."""


@dataclass(frozen=True)
class Noticed:
    """Detection of a mistake.

    Attributes:
        seconds: processor time that it took, in a process of its own with the import of verl.
        stops: whether the run would not start.
        line: the first problem, or the warning.
    """

    seconds: float
    stops: bool
    line: str


def command(mistake: Mistake, folder: Path, arguments: list[str]) -> list[str]:
    """Arguments of ``main_ppo`` with a mistake in them."""
    kept = [each for each in arguments if not (mistake.without and each.startswith(mistake.without))]
    return [*kept, *(each.replace("{folder}", str(folder)) for each in mistake.arguments)]


def environment_of(mistake: Mistake, folder: Path) -> dict[str, str]:
    """The environment in which a mistake is made."""
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    inherited = {key: value for key, value in os.environ.items() if key not in UNSET}
    fixed = {"PYTHONPATH": path, "VERL_PLATFORM": "cpu", "RAY_ADDRESS": "local", "NETRC": str(folder / "no.netrc")}
    return {**inherited, **fixed, **mistake.environment}


def try_here(mistake: Mistake, folder: Path) -> Noticed:
    """Make a mistake and compose and check the config in this process."""
    arguments = command(mistake, folder, make(folder))
    mistake.change(folder)
    with _environment(environment_of(mistake, folder), folder):
        started = time.process_time()
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", overrides=arguments, return_hydra_config=True)
        found = list(findings(Run(config)))
        seconds = time.process_time() - started
    is_warning, line = found[0] if found else (True, "")
    return Noticed(seconds, not is_warning, without_folders(line, folder))


def try_apart(mistake: Mistake, folder: Path) -> Noticed:
    """Make a mistake and run ``python -m verl_atpo.check`` in a process of its own."""
    arguments = command(mistake, folder, make(folder))
    mistake.change(folder)
    started = _children_s()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "verl_atpo.check", *arguments],
        env=environment_of(mistake, folder),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    seconds = _children_s() - started
    mark = "warning: " if mistake.warns else "PROBLEM: "
    lines = [line.removeprefix(mark) for line in done.stdout.splitlines() if line.startswith(mark)]
    named = [line for line in reversed(done.stderr.splitlines()) if mistake.names in line]
    line = (lines or named or [*done.stderr.splitlines(), ""])[0].strip()
    return Noticed(seconds, done.returncode != 0, without_folders(line, folder))


def _children_s() -> float:
    """Processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def without_folders(line: str, folder: Path) -> str:
    """Remove the project's folder from a message, and name the current one FOLDER."""
    return line.replace(f"{folder}/", "").replace(str(folder), "FOLDER").replace(str(Path.cwd()), "FOLDER")


@contextlib.contextmanager
def _environment(variables: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Variables and import path of a project, and none of its modules from an earlier one."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    sys.path.insert(0, str(folder))
    for module in MODULES:
        sys.modules.pop(module, None)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        os.environ.clear()
        os.environ.update(before)
