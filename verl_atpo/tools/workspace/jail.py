"""Isolation of a command: the program and arguments that run it, which see the workspace and the system to read."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from verl_atpo.tools.sandbox import inside
from verl_atpo.tools.sandbox.isolation import NO_NAME, Isolation, bwrap_program, check_landlock
from verl_atpo.tools.sandbox.text import with_inside
from verl_atpo.tools.workspace import starter
from verl_atpo.tools.workspace.config import WorkspaceConfig
from verl_atpo.tools.workspace.files import Mount
from verl_atpo.tools.workspace.syscalls import compiled_filter
from verl_atpo.tools.workspace.usage import OWN_PROCESSES

WORKSPACE, TEMPORARY = "/workspace", "/tmp"
"""Where commands see the two parts with bubblewrap."""
ENVIRONMENT = "/environment"
"""Where they see Python's environment if one of the two parts covers its own path."""
NOBODY, INSIDE = 65533, 1000
"""User and group that the administrator's commands run as, outside and inside; the first is nobody's."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/mime.types", "/etc/magic", "/etc/bash.bashrc"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "fd/2"}
SHELLS = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh")
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclasses.dataclass(frozen=True)
class Jail:
    """One of the isolations, as it works on this machine.

    Attributes:
        isolation: which.
        config: limits.
        proc: whether commands have a ``/proc`` of their own; never without bubblewrap.
        drops: whether commands run as a user without rights although this process is the administrator's; only with
            bubblewrap.
    """

    isolation: Isolation
    config: WorkspaceConfig
    proc: bool = False
    drops: bool = False

    @property
    def name(self) -> str:
        """Isolation and form, for messages."""
        lacks = ["/proc"] if not self.proc else []
        lacks += ["a user without rights"] if os.geteuid() == 0 and not self.drops else []
        return self.isolation.value + (f" without {' and '.join(lacks)}" if self.mounts and lacks else "")

    @property
    def owner(self) -> int | None:
        """User that commands run as, if it is not this process's."""
        return NOBODY if self.drops else None

    @property
    def mounts(self) -> bool:
        """True where the files can be layers, and have one path in every workspace."""
        return self.isolation is Isolation.BUBBLEWRAP

    def start(
        self, mounts: tuple[Mount, ...], command: str, descriptor: int, held: contextlib.ExitStack
    ) -> tuple[list[str], list[int]]:
        """Return program and arguments, and the descriptors that it inherits.

        What differs between workspaces is in files, as commands can see arguments.

        Args:
            mounts: mounts of the workspace and its folder for temporary files.
            command: command for the shell.
            descriptor: with bubblewrap the end of a pipe that takes its information, else the end of one whose other
                end is closed to end the command.
            held: closes the files.
        """
        settings: dict[str, Any] = {
            "command": [_shell(), "-c", command],
            "niceness": self.config.niceness,
            "limits": self._limits(),
            "user": INSIDE if self.drops else None,
            "filter": self._filter(),
            "rules": self._rules(mounts),
            "lifeline": None if self.mounts else descriptor,
            "tasks": self.config.processes,
        }
        program = _file(f"{_source()}\nmain({settings!r})\n".encode("utf-8", "replace"), held)
        starter = [self._place(sys.executable), "-I", "-S", "-B", "-X", "utf8", "-c", f"exec(open({program}).read())"]
        if not self.mounts:
            return starter, [descriptor, program]
        user = user_namespace(held) if self.drops else None
        options = _file("".join(f"{option}\0" for option in self._options(mounts, user)).encode(), held)
        inherited = [descriptor, program, options, *([] if user is None else [user])]
        return [bwrap_program(), "--info-fd", str(descriptor), "--args", str(options), *starter], inherited

    def environment(self, mounts: tuple[Mount, ...]) -> dict[str, str]:
        """Return all variables that a command sees."""
        home, temporary = (WORKSPACE, TEMPORARY) if self.mounts else (str(each.upper) for each in mounts)
        return {
            "PATH": f"{os.path.dirname(self._place(sys.executable))}:{PATHS}",
            "HOME": home,
            "TMPDIR": temporary,
            "USER": "agent",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    def seen(self, output: bytes, mounts: tuple[Mount, ...]) -> bytes:
        """Return output in which the folders have the same path in every workspace."""
        if not self.mounts:
            for mount, name in zip(mounts, (WORKSPACE, TEMPORARY), strict=True):
                output = output.replace(os.fsencode(mount.upper), name.encode())
        return output

    def _place(self, path: str) -> str:
        """Return where commands see a file of this machine.

        Raises:
            OSError: nowhere, as a folder of theirs covers it.
        """
        covering = [each for each in (WORKSPACE, TEMPORARY) if self.mounts and Path(path).is_relative_to(each)]
        if not covering:
            return path
        if Path(path).is_relative_to(sys.prefix):
            return str(Path(ENVIRONMENT, Path(path).relative_to(sys.prefix)))
        raise OSError(
            f"{path} lies below {covering[0]}, where commands have files of their own; with bubblewrap the Python that "
            "an environment was made from, and what workspace.readable names, have to lie elsewhere"
        )

    def _filter(self) -> str:
        if self.isolation is Isolation.LIMITS_ONLY:
            return ""
        signals = self.mounts or inside.landlock_version() >= inside.SCOPES_VERSION
        return base64.b64encode(compiled_filter(apart=self.mounts, signals=signals)).decode()

    def _limits(self) -> dict[str, int]:
        config = self.config
        limits = {
            "RLIMIT_DATA": config.memory_mb << 20,
            "RLIMIT_FSIZE": config.disk_mb << 20,
            "RLIMIT_NOFILE": config.open_files,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
        if self.drops or (self.mounts and os.geteuid() != 0):  # counted in the namespace; not for the administrator
            limits["RLIMIT_NPROC"] = config.processes + OWN_PROCESSES
        return limits

    def _rules(self, mounts: tuple[Mount, ...]) -> list[tuple[str, int]]:
        if self.isolation is not Isolation.LANDLOCK:
            return []
        check_landlock()
        readable = [(path, inside.READ_AND_EXECUTE) for path in (*_readable(), *self.config.readable)]
        devices = [(path, inside.READ | inside.WRITE) for path in DEVICES]
        return [*readable, *devices, *((str(mount.upper), inside.EVERYTHING) for mount in mounts)]

    def _options(self, mounts: tuple[Mount, ...], user: int | None) -> list[str]:
        """Return bubblewrap's options: an empty root with the system to read and two folders to write to.

        Args:
            mounts: these folders.
            user: descriptor of a user namespace; None for a new one with this user.
        """
        if user is None:
            options = ["--unshare-all", "--uid", str(INSIDE), "--gid", str(INSIDE), "--cap-drop", "ALL"]
        else:
            options = ["--userns", str(user), *(f"--unshare-{each}" for each in ("ipc", "pid", "net", "uts"))]
            options += [
                "--unshare-cgroup-try",
                "--cap-drop",
                "ALL",
                "--cap-add",
                "CAP_SETUID",
                "--cap-add",
                "CAP_SETGID",
            ]
        options += ["--die-with-parent", "--new-session", *NO_NAME]
        places = {path: self._place(path) for path in (*_readable(), *self.config.readable)}
        for folder in sorted({str(above) for path in (*places.values(), "/dev/null") for above in Path(path).parents}):
            options += ["--perms", "0755", "--dir", folder]  # else only the administrator could pass through
        for path, place in places.items():
            is_link = os.path.islink(path) and path in SYSTEM
            options += ["--symlink", os.readlink(path), path] if is_link else ["--ro-bind", path, place]
        for path in DEVICES:
            options += ["--dev-bind", path, path]
        if self.proc:
            options += ["--proc", "/proc"]
            for name, target in DEVICE_LINKS.items():
                options += ["--symlink", target, f"/dev/{name}"]
        if self.config.temporary_mb:
            size = str(self.config.temporary_mb << 20)
            options += ["--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"]
        for mount, place in zip(mounts, (WORKSPACE, TEMPORARY), strict=True):
            for layer in mount.layers:
                options += ["--overlay-src", str(layer)]
            if mount.work is not None:
                options += ["--overlay", str(mount.upper), str(mount.work), place]
            else:
                options += ["--bind", str(mount.upper), place]
        return [*options, "--remount-ro", "/", "--chdir", WORKSPACE]


def user_namespace(held: contextlib.ExitStack) -> int:
    """Make a user namespace with the administrator, who sets up the rest, and a user without rights.

    Returns:
        A descriptor, closed by ``held``.

    Raises:
        OSError: the kernel or the container refuses it.
    """
    own = os.readlink("/proc/self/ns/user")
    with subprocess.Popen(
        ["unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        try:
            folder = Path(f"/proc/{holder.pid}")
            while os.readlink(folder / "ns/user") == own:
                if holder.poll() is not None:
                    raise OSError("unshare --user is refused")
                time.sleep(0.0005)
            for name in ("uid_map", "gid_map"):
                (folder / name).write_text(f"0 0 1\n{INSIDE} {NOBODY} 1\n")
            descriptor = os.open(folder / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            holder.kill()
    held.callback(os.close, descriptor)
    return descriptor


def _file(content: bytes, held: contextlib.ExitStack) -> int:
    """Return the descriptor of a file without a name, at its beginning."""
    descriptor = os.memfd_create("workspace")
    held.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@functools.cache
def _source() -> str:
    return with_inside(Path(starter.__file__).read_text())


@functools.cache
def _shell() -> str:
    for path in SHELLS:
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(f"there is no shell; expected one of {', '.join(SHELLS)}")


@functools.cache
def _readable() -> tuple[str, ...]:
    """Return the system's and Python's files that commands may read."""
    python = {sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))}
    python |= {os.path.dirname(os.path.realpath(sys.executable))}
    further = sorted(path for path in python if not path.startswith(("/usr/", "/lib")))
    return tuple(path for path in (*SYSTEM, *SYSTEM_FILES, *further) if os.path.exists(path))
