"""Start of a program inside the sandbox, before untrusted code runs: limits, and rights that it gives up for good.

It runs there by its source text, so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import resource
import typing

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_THP_DISABLE = 1, 22, 36, 38, 41
SECCOMP_MODE_FILTER, LINUX_CAPABILITY_VERSION_3 = 2, 0x20080522
SECCOMP, SECCOMP_NEW_LISTENER = {"x86_64": 317, "aarch64": 277}, 8
"""Number of the system call by architecture, and its flag."""
SIGKILL = 9
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, LANDLOCK_VERSION = 444, 445, 446, 1
READ, WRITE, READ_AND_EXECUTE, EVERYTHING = 0b1100, 0b10, 0b1101, (1 << 16) - 1
"""Landlock's rights of files: EXECUTE, WRITE_FILE, READ_FILE, READ_DIR and so on."""
SCOPES_VERSION = 6
"""First version of Landlock that can refuse signals to processes outside."""
ONLY_FILES = 0b111 | 1 << 14
"""Rights that a file can have; the others are a folder's."""


def libc() -> typing.Any:
    """Return the C library."""
    return ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Return the result of a call of the C library.

    Raises:
        OSError: the call failed.
    """
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def limit(niceness: int, limits: dict[str, int]) -> None:
    """Set niceness and resource limits, by name; nothing can raise them again."""
    os.nice(niceness)
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def give_up(filter_code: bytes, end_with_parent: bool = True, listen: bool = False) -> int:
    """Give up capabilities and, if there is a filter, all other system calls.

    Args:
        filter_code: filter for the kernel; empty for none.
        end_with_parent: whether the process is killed when its parent has ended.
        listen: whether the filter asks a listener about some calls.

    Returns:
        The listener's descriptor; -1 if there is none.
    """
    library = libc()
    if end_with_parent:
        check(library.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    # A huge page stays whole while one of its small ones is mapped: 2 MiB of memory for 4 KiB of address space.
    check(library.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "PR_SET_THP_DISABLE")
    check(library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    check(library.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    if not filter_code:
        return -1

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    program = Program(len(filter_code) // 8, filter_code)
    if listen:
        number = SECCOMP[os.uname().machine]
        return check(library.syscall(number, 1, SECCOMP_NEW_LISTENER, ctypes.byref(program)), "seccomp")
    check(library.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "PR_SET_SECCOMP")
    return -1


def landlock_version() -> int:
    """Return the version of the kernel's Landlock.

    Raises:
        OSError: it has none, or it is switched off.
    """
    return check(libc().syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION), "landlock_create_ruleset")


def restrict_files(rules: list[tuple[str, int]], own_signals: bool = False) -> None:
    """Landlock: all files can be used only by the given rights, for good.

    Args:
        rules: path of a file or a folder with all that is in it, and rights; a path that is not there is left out.
        own_signals: whether signals to processes outside are refused, too, where the kernel can (version 6).

    Raises:
        OSError: the kernel cannot.
    """
    library, version = libc(), landlock_version()
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    handled = (1 << (13 + (version >= 2) + (version >= 3))) - 1 | (1 << 15 if version >= 5 else 0)
    scoped = 0b11 if own_signals and version >= SCOPES_VERSION else 0
    attributes = (ctypes.c_uint64 * 3)(handled, 0, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = check(library.syscall(LANDLOCK_CREATE, attributes, size, 0), "landlock_create_ruleset")

    class Rule(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("rights", ctypes.c_uint64), ("folder", ctypes.c_int32)]

    for path, rights in rules:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights &= handled if os.path.isdir(path) else handled & ONLY_FILES
        rule = Rule(rights, descriptor)
        check(library.syscall(LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0), f"landlock_add_rule {path}")
        os.close(descriptor)
    check(library.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
