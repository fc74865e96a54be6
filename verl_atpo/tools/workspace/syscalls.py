"""Filter of the system calls of commands: it allows what compilers, interpreters and ordinary tools need.

All else fails with ``EPERM``, above all: namespaces and mounts, tracing and other processes' memory, memory that no
limit counts (memfd, System V, large shared mappings), io_uring, BPF, keys, kernel modules, clocks, raw and other
sockets, and all calls of future kernels. ``clone3``, whose flags a filter cannot see, is not there (``ENOSYS``), so
that libraries use ``clone``.
"""

from __future__ import annotations

import errno
import functools
import socket
from typing import Any

from verl_atpo.tools.sandbox.filters import (
    COMPUTING,
    WITHOUT_EFFECT,
    allow_socket_pairs,
    allow_values,
    compiled,
    exists,
    new_filter,
)

_PROCESSES = (
    "execve execveat setpgid setsid sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min "
    "getpriority ioprio_get membarrier arch_prctl capget setrlimit get_mempolicy "
    "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups"
)
_OTHERS = "setpriority sched_setaffinity"
"""They reach all processes of a user, so they are only for commands that see none but their own."""
_NEW = ("fork", "vfork")
_SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal"
_FILES = (
    "link linkat symlink symlinkat truncate mknod mknodat flock copy_file_range sendfile splice tee readahead "
    "fadvise64 getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr mlock munlock mlock2"
)
_RIGHTS = (
    "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat "
    "setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"
)
"""Rights, owners, times and attributes of files. Landlock does not restrict them: there these have no effect."""
_WAITING = (
    "eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime timer_create timer_settime "
    "timer_gettime timer_getoverrun timer_delete inotify_init inotify_init1 inotify_add_watch inotify_rm_watch"
)
_NETWORK = (
    "connect bind listen accept accept4 sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg setsockopt getsockopt "
    "socketpair"
)
_ALSO_WITHOUT_EFFECT = ("sync", "syncfs", "sync_file_range")
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""F_DUPFD to F_SETFL, F_GETLK to F_SETLKW, the same of open files, F_DUPFD_CLOEXEC, F_GETPIPE_SZ; not F_SETOWN."""
_IOCTL = (
    *(0x5401, 0x5402, 0x5403, 0x5404, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x5452),
    *(0x40049409, 0x80086601),
)
"""Of terminals TCGETS to TCSETSF, TIOCGPGRP, TIOCGWINSZ; FIONREAD to FIOASYNC; FICLONE, FS_IOC_GETFLAGS."""
_PRCTL = (1, 2, 3, 4, 15, 16, 21, 23, 36, 37, 38, 39, 40)
"""PDEATHSIG, DUMPABLE, NAME, GET_SECCOMP, CAPBSET_READ, CHILD_SUBREAPER, NO_NEW_PRIVS, GET_TID_ADDRESS."""
_NAMESPACES = 0x7E020000
"""All of clone's flags that make a namespace."""
_TYPE = 0xF


@functools.cache
def compiled_filter(apart: bool, signals: bool) -> bytes:
    """Compile the filter to the kernel's form.

    Args:
        apart: whether the commands have files, processes and a network of their own, so that nothing reaches others.
            Else new processes and threads are asked for at the filter's listener, which bounds them.
        signals: whether signals to processes outside are refused by other means.

    Raises:
        ImportError: the package ``pyseccomp`` or the library ``libseccomp`` is not there.
        OSError: libseccomp could not make the filter.
    """
    import pyseccomp

    groups = [
        _PROCESSES,
        _FILES,
        _WAITING,
        *([_NETWORK, _OTHERS, _RIGHTS] if apart else []),
        _SIGNALS if signals else "",
    ]
    nothing = (*WITHOUT_EFFECT, *_ALSO_WITHOUT_EFFECT, *(() if apart else _RIGHTS.split()))
    rules = new_filter((*COMPUTING, *" ".join(groups).split()), nothing)
    for name, place, values in (("fcntl", 1, _FCNTL), ("ioctl", 1, _IOCTL), ("prctl", 0, _PRCTL)):
        allow_values(rules, name, place, values)
    rules.add_rule(pyseccomp.ALLOW, "prlimit64", pyseccomp.Arg(0, pyseccomp.EQ, 0))
    rules.add_rule(pyseccomp.ALLOW, "personality", pyseccomp.Arg(0, pyseccomp.EQ, 0xFFFFFFFF))
    new = pyseccomp.ALLOW if apart else pyseccomp.NOTIFY
    rules.add_rule(new, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _NAMESPACES, 0))
    for name in filter(exists, _NEW):
        rules.add_rule(new, name)
    if exists("clone3"):
        rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    if apart:
        _allow_sockets(rules)
    else:
        allow_socket_pairs(rules)
    return compiled(rules)


def _allow_sockets(rules: Any) -> None:
    """Sockets of a separate network."""
    import pyseccomp

    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            of_kind = pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _TYPE, kind)
            rules.add_rule(pyseccomp.ALLOW, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family), of_kind)
