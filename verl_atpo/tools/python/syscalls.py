"""Filter of the system calls of the Python tool: it allows what one thread needs to compute and to use its files.

Everything else fails with ``EPERM``, above all: new processes and threads, programs, sockets other than a stream pair,
their options, descriptors sent through them, signals to anyone, other processes' memory, rights and times of files,
kernel objects that no limit counts, resource limits, capabilities, and all calls of future kernels. Calls that write
files out to a disk succeed and do nothing: the only files that can be changed live in memory.
"""

from __future__ import annotations

import functools

from verl_atpo.tools.sandbox.filters import COMPUTING, allow_socket_pairs, allow_values, compiled, new_filter

_FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; above all not F_SETOWN, which sends signals."""
_IOCTL = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""


@functools.cache
def compiled_filter() -> bytes:
    """Compile the filter to the kernel's form, for this machine's architecture.

    Raises:
        ImportError: the package ``pyseccomp`` or the library ``libseccomp`` is not there.
        OSError: libseccomp could not make the filter.
    """
    import pyseccomp

    rules = new_filter(COMPUTING)
    allow_values(rules, "fcntl", 1, _FCNTL)
    allow_values(rules, "ioctl", 1, _IOCTL)
    allow_socket_pairs(rules)
    # Reading its own limits, not setting them.
    own, reading = pyseccomp.Arg(0, pyseccomp.EQ, 0), pyseccomp.Arg(2, pyseccomp.EQ, 0)
    rules.add_rule(pyseccomp.ALLOW, "prlimit64", own, reading)
    return compiled(rules)
