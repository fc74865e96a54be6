"""Choice of the isolation that works on this machine, and the command that starts an interpreter in it."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from verl_atpo.settings import ConfigError
from verl_atpo.tools.python.config import PythonConfig
from verl_atpo.tools.python.syscalls import compiled_filter
from verl_atpo.tools.sandbox.inside import READ
from verl_atpo.tools.sandbox.isolation import NO_NAME, REMEDIES, Isolation, bwrap_program, check_landlock
from verl_atpo.tools.sandbox.text import with_inside

logger = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("worker.py")
WORKING_FOLDER = "/sandbox"
READY = b"ready\n"
DEVICES = ("/dev/null", "/dev/urandom")
SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
LAYOUT = """
import json, os, sys, sysconfig
paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
paths += [os.path.join(sys.base_prefix, "lib"), os.path.join(sys.prefix, "pyvenv.cfg")]
print(json.dumps([sys.executable, sorted(set(paths))]))
"""


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """A working way to start interpreters.

    Attributes:
        isolation: which.
        command: program and arguments. With bubblewrap an option ``--info-fd`` follows the program.
        environment: all variables that the interpreter sees.
    """

    isolation: Isolation
    command: tuple[str, ...]
    environment: dict[str, str]


def find_sandbox(config: PythonConfig) -> Sandbox:
    """Return the sandbox that the settings ask for, tried by starting an interpreter in it.

    Raises:
        ConfigError: it does not work on this machine; with ``auto``, neither of the strong ones does.
    """
    strong = (Isolation.BUBBLEWRAP, Isolation.LANDLOCK)
    failures: dict[str, str] = {}
    for isolation in strong if config.isolation is Isolation.AUTO else (config.isolation,):
        found = _tried(isolation, config)
        if isinstance(found, Sandbox):
            _state(isolation, failures)
            return found
        failures[isolation.value] = found
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    raise ConfigError(
        f"python.isolation={config.isolation.value!r} does not work on this machine ({reasons}). Remedies: "
        f"{REMEDIES}. Only if all code is to be trusted: python.isolation=limits_only. See docs/sandbox.md."
    )


def _state(isolation: Isolation, failures: dict[str, str]) -> None:
    if isolation is Isolation.LIMITS_ONLY:
        logger.warning("The Python tool runs code WITHOUT a sandbox (python.isolation=limits_only).")
    elif failures:
        logger.warning("The Python tool's sandbox is %s, as others do not work here: %s", isolation.value, failures)
    else:
        logger.info("The Python tool's sandbox is %s.", isolation.value)


@functools.lru_cache
def _tried(isolation: Isolation, config: PythonConfig) -> Sandbox | str:
    """Return the sandbox, or the reason that there is none."""
    try:
        sandbox = _sandbox(isolation, config)
        tried = subprocess.run(
            sandbox.command,
            env=sandbox.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=config.start_s,
            start_new_session=True,
            cwd="/",
        )
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    if tried.stdout != READY:
        return tried.stderr.decode(errors="replace").strip()[-500:] or f"exit code {tried.returncode}"
    return sandbox


def _sandbox(isolation: Isolation, config: PythonConfig) -> Sandbox:
    executable, paths = _layout(config.python or sys.executable)
    settings: dict[str, Any] = {
        "limits": _limits(config, config.disk_mb if isolation is Isolation.BUBBLEWRAP else 0),
        "niceness": config.niceness,
        "output_bytes": config.output_bytes,
        "seed": config.seed,
        "rules": [],
        "filter": "",
    }
    prefix: list[str] = []
    if isolation is not Isolation.LIMITS_ONLY:
        settings["filter"] = base64.b64encode(compiled_filter()).decode()
    if isolation is Isolation.LANDLOCK:
        check_landlock()
        settings["rules"] = [(path, READ) for path in (*paths, *DEVICES)]
    if isolation is Isolation.BUBBLEWRAP:
        prefix = [bwrap_program(), *_bwrap_options(executable, paths, config.disk_mb)]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    environment = {"LANG": "C.UTF-8", "HOME": WORKING_FOLDER, "PYTHONHASHSEED": str(config.seed), **threads}
    program = with_inside(WORKER.read_text())
    return Sandbox(
        isolation, (*prefix, executable, "-s", "-B", "-X", "utf8", "-c", program, json.dumps(settings)), environment
    )


def _limits(config: PythonConfig, disk_mb: int) -> dict[str, int]:
    """Return the resource limits of an interpreter."""
    return {
        "RLIMIT_AS": config.memory_mb << 20,
        "RLIMIT_FSIZE": disk_mb << 20,
        "RLIMIT_NOFILE": config.open_files,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }


@functools.lru_cache
def _layout(python: str) -> tuple[str, tuple[str, ...]]:
    """Return the path of an interpreter, and all paths that it has to read."""
    try:
        completed = subprocess.run([python, "-s", "-c", LAYOUT], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"python.python={python!r} cannot be run ({error}): expected the path of a Python interpreter, or null."
        ) from error
    executable, paths = json.loads(completed.stdout)
    return executable, tuple(path for path in (*SYSTEM, *paths) if os.path.exists(path))


def _bwrap_options(executable: str, paths: tuple[str, ...], disk_mb: int) -> list[str]:
    """Make the command of an empty root with Python's files to read, and one folder to write to."""
    real = os.path.realpath(executable)
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL", *NO_NAME]
    for path in (*paths, real):
        options += ["--ro-bind", path, path]
    for path in DEVICES:
        options += ["--dev-bind", path, path]
    if executable != real:
        options += ["--symlink", real, executable]
    if disk_mb:
        options += ["--size", str(disk_mb << 20), "--tmpfs", WORKING_FOLDER]
    else:
        options += ["--dir", WORKING_FOLDER]
    return [*options, "--remount-ro", "/", "--chdir", WORKING_FOLDER]
