"""The system calls that model-written code may make: what one thread needs to compute and to use files it may see.

Everything else fails with ``EPERM``, above all: new processes and threads, programs, sockets other than a stream pair,
signals to anyone, other processes' memory, rights and times of files, kernel objects that no limit counts, resource
limits, capabilities, and whatever kernels to come will add.
"""

from __future__ import annotations

import errno
import functools
import socket
import tempfile

_FILES = (
    "read write readv writev pread64 pwrite64 preadv pwritev lseek close close_range dup dup2 dup3 pipe "
    "pipe2 open openat openat2 creat stat fstat lstat newfstatat fstatat64 statx access faccessat "
    "faccessat2 statfs fstatfs readlink readlinkat getdents getdents64 getcwd chdir fchdir umask mkdir "
    "mkdirat rmdir unlink unlinkat rename renameat renameat2 ftruncate fallocate fsync fdatasync "
    "fadvise64"
)
_WAITING = (
    "epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6 "
    "sendto sendmsg recvfrom recvmsg shutdown getsockopt setsockopt getsockname getpeername alarm "
    "setitimer getitimer pause clock_nanosleep nanosleep wait4 waitid restart_syscall"
)
_MEMORY_AND_SIGNALS = (
    "mmap mprotect munmap mremap brk madvise msync mincore futex futex_waitv set_robust_list "
    "get_robust_list set_tid_address rseq membarrier rt_sigaction rt_sigprocmask rt_sigreturn "
    "rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack exit exit_group"
)
_ASKING = (
    "getpid gettid getppid getuid geteuid getgid getegid getgroups getresuid getresgid getpgrp getpgid "
    "getsid getrlimit getrusage times sysinfo uname getcpu getrandom time gettimeofday clock_gettime "
    "clock_getres sched_yield sched_getaffinity"
)
ALLOWED = tuple(" ".join((_FILES, _WAITING, _MEMORY_AND_SIGNALS, _ASKING)).split())

_FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; above all not F_SETOWN, which sends signals."""
_IOCTL = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_SOCKET_TYPE = 0xF
"""The bits of a socket's type besides SOCK_NONBLOCK and SOCK_CLOEXEC."""


@functools.cache
def compiled_filter() -> bytes:
    """The filter as the kernel takes it (classic BPF), for this machine's architecture.

    Raises:
        ImportError: the package ``pyseccomp`` or the library ``libseccomp`` is not there.
        OSError: libseccomp could not make the filter.
    """
    try:
        import pyseccomp
    except RuntimeError as error:  # so it says that it found no libseccomp
        raise ImportError(str(error)) from error

    refuse = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    allow = pyseccomp.ALLOW
    for name in ALLOWED:
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != -1:  # else older than the system call
            refuse.add_rule(allow, name)
    for command in _FCNTL:
        refuse.add_rule(allow, "fcntl", pyseccomp.Arg(1, pyseccomp.EQ, command))
    for request in _IOCTL:
        refuse.add_rule(allow, "ioctl", pyseccomp.Arg(1, pyseccomp.EQ, request))
    # A pair of datagram sockets could send to any socket that has a name.
    pair = pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _SOCKET_TYPE, socket.SOCK_STREAM)
    refuse.add_rule(allow, "socketpair", pyseccomp.Arg(0, pyseccomp.EQ, socket.AF_UNIX), pair)
    # Reading one's own limits, not setting them.
    own, reading = pyseccomp.Arg(0, pyseccomp.EQ, 0), pyseccomp.Arg(2, pyseccomp.EQ, 0)
    refuse.add_rule(allow, "prlimit64", own, reading)
    with tempfile.TemporaryFile() as file:
        refuse.export_bpf(file)
        file.seek(0)
        return file.read()
