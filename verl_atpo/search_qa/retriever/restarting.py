"""Child process for the server, restarted if one of its mapped files is truncated.

Files are checked before each search, but a memory-mapped file that is truncated between the check and the search ends
the process (SIGBUS). The next process rebuilds the damaged files, or names them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger("verl_atpo.search_qa.retriever")

MOST_RESTARTS = 3
_PR_SET_PDEATHSIG = 1


def restarted(serve: Callable[[], int]) -> int:
    """Run ``serve`` in a child process, and restart it a few times after SIGBUS; SIGTERM and SIGINT are passed on.

    Args:
        serve: returns the exit code.

    Returns:
        The exit code: in the child its own; in the parent that of the last child, or 128 plus the signal that ended it.
    """
    code = 0
    for left in reversed(range(MOST_RESTARTS + 1)):
        child = os.fork()
        if not child:
            _become_child()
            return serve()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, functools.partial(_hand_on, child))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGBUS or not left:
            break
        logger.error("A file was truncated while it was read. Restarting: damaged files are rebuilt, or named")
    return code if code >= 0 else 128 - code


def _become_child() -> None:
    os.setpgid(0, 0)  # so that Ctrl+C reaches it once, passed on, and not from the terminal as well
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _hand_on(child: int, number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
