"""Building blocks of filters of system calls: allow-lists that libseccomp compiles to the kernel's form."""

from __future__ import annotations

import contextlib
import errno
import socket
import tempfile
from collections.abc import Sequence
from typing import Any

_FILES = (
    "read write readv writev pread64 pwrite64 preadv pwritev lseek close close_range dup dup2 dup3 pipe "
    "pipe2 open openat openat2 creat stat fstat lstat newfstatat fstatat64 statx access faccessat "
    "faccessat2 statfs fstatfs readlink readlinkat getdents getdents64 getcwd chdir fchdir umask mkdir "
    "mkdirat rmdir unlink unlinkat rename renameat renameat2 ftruncate fallocate"
)
_WAITING = (
    "epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6 "
    "shutdown getsockname getpeername alarm setitimer getitimer pause clock_nanosleep nanosleep wait4 waitid "
    "restart_syscall"
)
_MEMORY_AND_SIGNALS = (
    "mprotect munmap mremap brk futex futex_waitv set_robust_list get_robust_list set_tid_address rseq "
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack exit exit_group"
)
_ASKING = (
    "getpid gettid getppid getuid geteuid getgid getegid getgroups getresuid getresgid getpgrp getpgid "
    "getsid getrlimit getrusage times sysinfo uname getcpu getrandom time gettimeofday clock_gettime "
    "clock_getres sched_yield sched_getaffinity"
)
COMPUTING = tuple(" ".join((_FILES, _WAITING, _MEMORY_AND_SIGNALS, _ASKING)).split())

WITHOUT_EFFECT = ("fsync", "fdatasync", "msync")
"""They succeed and do nothing: writing files out to a disk is not for untrusted code to ask."""

MADVISE = (0, 1, 2, 3, 4, 8, 14, 15, 16, 17)
"""NORMAL to DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP; not those that push libraries out of memory."""
_PAGE = 4096
_MAP_TYPE, _MAP_SHARED, _MAP_PRIVATE, _MAP_ANONYMOUS = 0xF, 1, 2, 0x20
_SOCKET_TYPE = 0xF
"""The bits of a socket's type besides SOCK_NONBLOCK and SOCK_CLOEXEC."""
_MESSAGE_FLAGS = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_WAITALL | socket.MSG_NOSIGNAL
_SOCKET_QUESTIONS = (socket.SO_TYPE, socket.SO_ERROR, socket.SO_PROTOCOL, socket.SO_DOMAIN)
_ALL_BITS = 0xFFFFFFFF


def new_filter(allowed: Sequence[str], without_effect: Sequence[str] = WITHOUT_EFFECT) -> Any:
    """Make a filter that lets the named system calls through; all others fail with ``EPERM``.

    Raises:
        ImportError: the package ``pyseccomp`` or the library ``libseccomp`` is not there.
        OSError: libseccomp could not make the filter.
    """
    try:
        import pyseccomp
    except RuntimeError as error:  # so it says that it found no libseccomp
        raise ImportError(str(error)) from error

    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in (*allowed, *without_effect):
        if exists(name):
            rules.add_rule(pyseccomp.ALLOW if name in allowed else pyseccomp.ERRNO(0), name)
    allow_values(rules, "madvise", 2, MADVISE)
    allow_mappings(rules)
    return rules


def exists(name: str) -> bool:
    """Return whether this machine's libseccomp knows a system call, which may be newer than it."""
    import pyseccomp

    with contextlib.suppress(OSError, ValueError):
        return pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != -1
    return False


def compiled(rules: Any) -> bytes:
    """Compile a filter to the kernel's form (classic BPF), for this machine's architecture."""
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def allow_values(rules: Any, name: str, place: int, values: Sequence[int]) -> None:
    """Allow a system call whose argument at ``place`` is one of ``values``."""
    import pyseccomp

    for value in values:
        rules.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(place, pyseccomp.EQ, value))


def allow_mappings(rules: Any) -> None:
    """Private memory, and files as they are; memory to share one page at a time.

    The pages of shared memory stay when all but one are unmapped, while the address space that is limited shrinks.
    """
    import pyseccomp

    of_type = pyseccomp.Arg(3, pyseccomp.MASKED_EQ, _MAP_TYPE, _MAP_PRIVATE)
    of_file = pyseccomp.Arg(3, pyseccomp.MASKED_EQ, _MAP_TYPE | _MAP_ANONYMOUS, _MAP_SHARED)
    of_a_page = pyseccomp.Arg(1, pyseccomp.LE, _PAGE)
    for rule in (of_type, of_file, of_a_page):
        rules.add_rule(pyseccomp.ALLOW, "mmap", rule)


def allow_socket_pairs(rules: Any) -> None:
    """Stream pairs, as event loops wake themselves with, and plain bytes through them.

    A pair of datagram sockets could send to any socket that has a name. Options can raise buffers, which hold memory
    that no limit counts; messages can carry descriptors, and with them sockets beyond the limit of open files.
    """
    import pyseccomp

    local = pyseccomp.Arg(0, pyseccomp.EQ, socket.AF_UNIX)
    rules.add_rule(
        pyseccomp.ALLOW,
        "socketpair",
        local,
        pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _SOCKET_TYPE, socket.SOCK_STREAM),
    )
    plain = pyseccomp.Arg(3, pyseccomp.MASKED_EQ, _ALL_BITS & ~_MESSAGE_FLAGS, 0)
    for name in ("sendto", "recvfrom"):
        rules.add_rule(pyseccomp.ALLOW, name, plain)
    for question in _SOCKET_QUESTIONS:
        of_socket = pyseccomp.Arg(1, pyseccomp.EQ, socket.SOL_SOCKET)
        rules.add_rule(pyseccomp.ALLOW, "getsockopt", of_socket, pyseccomp.Arg(2, pyseccomp.EQ, question))
