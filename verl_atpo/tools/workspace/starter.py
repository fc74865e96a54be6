"""The program inside the isolation of a command: takes its limits, gives up its rights, and becomes the shell.

It is run by its source text, after that of ``sandbox/inside.py`` and before a call of :func:`main`. With Landlock,
which has no processes of its own, it stays as the parent of the shell, and ends everything that the shell started.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import typing

from verl_atpo.tools.sandbox.inside import PR_SET_CHILD_SUBREAPER, check, give_up, libc, limit, restrict_files

READY = b"ready\n"
SHELL_SIGNAL_BASE = 128
"""Offset of a signal's number in the exit code of a shell."""
WAKE_MS = 50
PIDFD_GETFD, NOTIF_RECV, NOTIF_SEND, NOTIF_CONTINUE = 438, 0xC0502100, 0xC0182101, 1
"""Of a filter's listener (seccomp_unotify(2)): requests and answers, whose sizes are parts of their numbers."""
MOST_DESCRIPTORS = 4096


def main(settings: dict[str, typing.Any]) -> None:
    """Run the command."""
    if settings["lifeline"] is None:
        become(settings)
    os.set_inheritable(settings["lifeline"], False)
    check(libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")
    receiving, sending = os.pipe()
    waiting, going = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(settings, (sending, waiting))
        except BaseException as error:
            os.write(2, repr(error).encode())
        os._exit(1)
    os.closerange(0, 3)  # the output ends with the commands
    os.close(sending)
    listener = listener_of(child, os.read(receiving, 8))
    os.write(going, b"go")
    code = wait(child, settings["lifeline"], listener, Tasks(settings["tasks"]))
    end_all()
    os._exit(code)


def become(settings: dict[str, typing.Any], ends: tuple[int, int] | None = None) -> typing.NoReturn:
    """Take the limits, give up the rights and execute the command; its errors go where its output goes.

    Args:
        settings: as given.
        ends: pipes to the parent that takes the filter's listener, and from it; None without one.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory is short, the system ends it before the trainer
    os.umask(0o022)
    if settings["user"] is not None:
        os.setgroups([])
        os.setresgid(settings["user"], settings["user"], settings["user"])
        os.setresuid(settings["user"], settings["user"], settings["user"])
    limit(settings["niceness"], settings["limits"])
    if settings["rules"]:
        restrict_files(settings["rules"], own_signals=True)
    listener = give_up(base64.b64decode(settings["filter"]), end_with_parent=ends is not None, listen=ends is not None)
    if ends is not None:
        os.write(ends[0], str(listener).encode())
        os.read(ends[1], 2)
    os.write(2, READY)
    os.dup2(1, 2)
    os.closerange(3, MOST_DESCRIPTORS)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)
    os.execv(settings["command"][0], settings["command"])


def listener_of(child: int, number: bytes) -> int | None:
    """Take the listener of the child's filter, whose number there the child has written; None where there is none."""
    if not number or int(number) < 0:
        return None
    descriptor = os.pidfd_open(child)
    try:
        return check(libc().syscall(PIDFD_GETFD, descriptor, int(number), 0), "pidfd_getfd")
    finally:
        os.close(descriptor)


class Tasks:
    """Bound of the processes and threads below this process.

    Args:
        most: largest number.
    """

    def __init__(self, most: int) -> None:
        self.most, self.counted, self.granted = most, 1, 0

    def answer(self, listener: int) -> None:
        """Let one start, or say that there are enough."""
        request = bytearray(80)
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fcntl.ioctl(listener, NOTIF_RECV, request)
            error, flags = (0, NOTIF_CONTINUE) if self.has_room() else (-errno.EAGAIN, 0)
            fcntl.ioctl(listener, NOTIF_SEND, bytes(request[:8]) + struct.pack("qiI", 0, error, flags))

    def has_room(self) -> bool:
        """Count one more if there is room; how many there are is looked up only where that matters."""
        if self.counted + self.granted >= self.most:
            self.counted, self.granted = 0, 0
            for pid in below(os.getpid()):
                with contextlib.suppress(OSError):
                    self.counted += len(os.listdir(f"/proc/{pid}/task"))
        if self.counted >= self.most:
            return False
        self.granted += 1
        return True


def wait(child: int, lifeline: int, listener: int | None, tasks: Tasks) -> int:
    """Wait until the child has ended or the lifeline's other end is closed; returns the exit code of a shell."""
    status = None
    poll = select.poll()
    poll.register(lifeline, select.POLLIN | select.POLLHUP)
    if listener is not None:
        poll.register(listener, select.POLLIN)
    while status is None:
        for descriptor, event in poll.poll(WAKE_MS):
            if descriptor == lifeline:
                return SHELL_SIGNAL_BASE + signal.SIGKILL
            if event & select.POLLIN:
                tasks.answer(descriptor)
            else:
                poll.unregister(descriptor)
        status = reaped(child)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SHELL_SIGNAL_BASE - code


def reaped(child: int) -> int | None:
    """Take leave of every process that has ended; returns the status of ``child`` if it has."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = status
    return found


def end_all() -> None:
    """Kill every process below this one: first stopped, so that none starts another meanwhile."""
    while found := below(os.getpid()):
        stopped: set[int] = set()
        while new := found - stopped:
            for pid in new:
                send(pid, signal.SIGSTOP)
            stopped |= new
            found = below(os.getpid())
        for pid in stopped:
            send(pid, signal.SIGKILL)
        reaped(-1)


def send(pid: int, number: int) -> None:
    """Send a signal to a process, if it is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def below(pid: int) -> set[int]:
    """Return the processes that ``pid`` has started, and those that these have, without ended ones."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] != b"Z" or int(fields[1]) != pid:
                    parents.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    pending = [pid]
    while pending:
        children = set(parents.get(pending.pop(), ())) - found
        found |= children
        pending += children
    return found
