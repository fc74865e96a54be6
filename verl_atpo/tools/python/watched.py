"""A handle on the interpreter's process that watches and kills it without a further file descriptor.

With bubblewrap it is a grandchild, so its number could be another's once it has ended. A descriptor of the process
(``pidfd``) never is, and is there when a killed interpreter matters most: when no descriptor is left to open ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

OOM_SCORE = 1000
"""Highest score there is: where memory is short, the system kills model-written code before the trainer."""

_PAGE_TABLES = re.compile(rb"^VmPTE:\s+(\d+) kB", re.MULTILINE)
_STATUS_BYTES = 8192
_DENTRIES = Path("/proc/sys/fs/dentry-state")
_NEGATIVE = 4
"""Column of the number of missing names in the kernel's statistics of its name cache."""


def missing_names() -> int | None:
    """Count the missing file names that the kernel remembers, on the whole machine; None where it does not say."""
    try:
        return int(_DENTRIES.read_text().split()[_NEGATIVE])
    except (OSError, ValueError, IndexError):
        return None


class WatchedProcess:
    """An untrusted process, and the kernel memory that it uses.

    Args:
        pid: id of a process that has not been reaped.

    Raises:
        OSError: it has ended, or no file descriptor is left.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        try:
            self._status = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(self._descriptor)
            raise

    def send(self, number: signal.Signals) -> None:
        """Send a signal.

        Raises:
            ProcessLookupError: the process has ended.
        """
        signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGKILL)

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used; 0 when it has ended."""
        clock = ~self.pid << 3 | 2  # the kernel's name of a process' CPU clock, as clock_getcpuclockid(3) makes it
        with contextlib.suppress(OSError):
            return time.clock_gettime(clock)
        return 0.0

    def page_tables_kb(self) -> int:
        """KiB of memory in its page tables, which no limit of a process counts; 0 when it has ended."""
        try:
            status = os.pread(self._status, _STATUS_BYTES, 0)
        except ProcessLookupError:
            return 0
        found = _PAGE_TABLES.search(status)
        return int(found[1]) if found else 0

    def stand_back(self, niceness: int) -> None:
        """Let the system kill it first when memory is short, and give its session that niceness too.

        Where the scheduler weighs sessions against each other (autogroup) a process' own niceness counts only within
        its session; without privileges the kernel takes few such requests a second, so some are refused.

        Raises:
            OSError: it has ended, or no file descriptor is left.
        """
        folder = Path(f"/proc/{self.pid}")
        (folder / "oom_score_adj").write_text(str(OOM_SCORE))
        with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError):
            (folder / "autogroup").write_text(str(niceness))

    def close(self) -> None:
        """Give the descriptors back; nothing can be done with it after that."""
        os.close(self._descriptor)
        os.close(self._status)
