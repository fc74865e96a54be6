"""Seconds of the clock and of the processor, and peak memory, of a call."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

SAMPLE_S = 0.002
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one call.

    Attributes:
        seconds: on the clock.
        cpu_seconds: of all threads together; what counts where other work shares the machine.
    """

    seconds: float
    cpu_seconds: float


def cost_of(call: Callable[[], _Result]) -> tuple[_Result, Cost]:
    """The call's result, and its cost."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, Cost(time.perf_counter() - begin, time.process_time() - cpu_begin)


def with_peak(call: Callable[[], _Result]) -> tuple[_Result, int]:
    """The call's result, and the bytes that were in use at most beyond what was in use before.

    On a CUDA device what torch allocated; on a CPU the process's resident memory, looked at every 2 ms.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        return result, torch.cuda.max_memory_allocated() - before
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what an earlier call freed does not hide what this one takes
    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(SAMPLE_S):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return call(), max(most, process.memory_info().rss) - before
    finally:
        done.set()
        watcher.join()
