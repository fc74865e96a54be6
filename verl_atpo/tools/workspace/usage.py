"""Watch of the processes, memory and disk of one command, from outside."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time

from verl_atpo.tools.workspace.config import WorkspaceConfig
from verl_atpo.tools.workspace.files import Mounted
from verl_atpo.tools.workspace.trees import TooDeep, Usage

OWN_PROCESSES = 2
"""Processes of the isolation itself."""
MOST_DESCRIPTORS = 2048
"""File descriptors of all processes of a command: sockets and pipes hold memory that is no process's own."""
DISK_SHARE = 20
"""The disk is looked at again after this many times the CPU time that it took."""
_MEMORY = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap|VmPTE):\s+(\d+) kB", re.MULTILINE)
_PSS = re.compile(rb"^(?:Pss|SwapPss):\s+(\d+) kB", re.MULTILINE)


class Watch:
    """Limits of one command on what it takes of the machine; called from time to time while it runs.

    Args:
        config: the limits.
        files: places that the command may write to.
        folder: on the disk that the files are on.
    """

    def __init__(self, config: WorkspaceConfig, files: Mounted, folder: str) -> None:
        self._config, self._files, self._folder = config, files, folder
        # A workspace that is over its limit already can still be used to remove files.
        self._most = Usage(config.disk_mb << 20, config.files).at_least(files.before)
        self._next_disk = 0.0

    def __call__(self, pid: int | None) -> str | None:
        """Return why the command has to be stopped, if it has."""
        most = self._config.processes + OWN_PROCESSES  # where the kernel counts, it refuses more
        processes, tasks = below(pid, most) if pid is not None else ([], 0)
        if tasks > most:
            return f"The command started more than {self._config.processes} processes and was stopped."
        return self._of_memory(processes) or self._of_disk(processes)

    def after(self) -> str | None:
        """Bring the files into order after the command; return what to tell the model of them, if anything."""
        reason = None
        try:
            self._files.before = self._files.added()
        except TooDeep as error:
            self._files.cut()
            self._files.before = self._files.added()
            reason = f"The command made too many folders inside one another ({error}); these were removed."
        return reason or self._over(self._files.before, "remove some")

    def _of_memory(self, processes: list[int]) -> str | None:
        most_kb = self._config.memory_mb << 10
        if memory_kb(processes, "status", _MEMORY) > most_kb and memory_kb(processes, "smaps_rollup", _PSS) > most_kb:
            return f"The command used more than {self._config.memory_mb} MiB of memory and was stopped."
        return None

    def _of_disk(self, processes: list[int]) -> str | None:
        if time.monotonic() < self._next_disk:
            return None
        started = time.thread_time()
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._config.free_mb << 20:
            return "The disk is nearly full; the command was stopped."
        descriptors, unlinked = held_by(processes)
        if descriptors > MOST_DESCRIPTORS:
            return f"The command opened more than {MOST_DESCRIPTORS} files and was stopped."
        try:
            added = self._files.added(self._most) + Usage(unlinked, 0)
        except TooDeep as error:
            return f"The command made too many folders inside one another ({error}) and was stopped."
        self._next_disk = time.monotonic() + DISK_SHARE * (time.thread_time() - started)
        return self._over(added, "the command was stopped")

    def _over(self, added: Usage, consequence: str) -> str | None:
        if added.bytes > self._most.bytes:
            return f"The files of the workspace take more than {self._config.disk_mb} MiB; {consequence}."
        if added.files > self._most.files:
            return f"The workspace has more than {self._config.files} new files; {consequence}."
        return None


def below(pid: int, most: int) -> tuple[list[int], int]:
    """Return a process and all that it and these have started, and the number of their threads.

    Above ``most`` threads not all are returned.
    """
    pending, found, tasks = [pid], [], 0
    while pending and tasks <= most:
        current = pending.pop()
        with contextlib.suppress(OSError):
            threads = os.listdir(f"/proc/{current}/task")
            found.append(current)
            tasks += len(threads)
            for thread in threads:
                with open(f"/proc/{current}/task/{thread}/children", "rb") as file:
                    pending += map(int, file.read().split())
    return found, tasks


def memory_kb(processes: list[int], file: str, pattern: re.Pattern[bytes]) -> int:
    """Add up figures in a file of each process."""
    total = 0
    for pid in processes:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/{file}", "rb") as opened:
            total += sum(map(int, pattern.findall(opened.read())))
    return total


def held_by(processes: list[int]) -> tuple[int, int]:
    """Return how many descriptors processes have, and the bytes of files that only descriptors hold."""
    count, unlinked = 0, {}
    for pid in processes:
        with contextlib.suppress(OSError):
            names = os.listdir(f"/proc/{pid}/fd")
            count += len(names)
            for name in names:
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{name}")
                    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
                        unlinked[info.st_dev, info.st_ino] = info.st_blocks * 512
    return count, sum(unlinked.values())
