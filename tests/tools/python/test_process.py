"""The sandbox's child process: its streams belong to the event loop alone, whatever other threads do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.assets.python_path import ROOT

SCRIPT = """
import asyncio, gc, os, sys, threading, time
from verl_atpo.tools.python.process import Process

PROCESSES, AT_ONCE = 400, 48
done, closed = threading.Event(), []

def collect():
    while not done.wait(0.05):
        gc.collect()

def open_and_close():
    while not done.wait(0.0005):
        reading, writing = os.pipe()
        try:
            os.write(writing, b"x")
            os.read(reading, 1)
            os.close(reading)
            os.close(writing)
        except OSError as error:
            closed.append(error)

async def echo(number, places):
    async with places:
        process = await Process.start(["/bin/cat"], env={}, cwd="/", pass_fds=[], limit=1000)
        for _ in range(3):
            process.write(b"%d\\n" % number)
            assert await asyncio.wait_for(process.stdout.readline(), 60) == b"%d\\n" % number
        assert await asyncio.wait_for(process.communicate(), 60) == (b"", b"")

async def main():
    places = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*[echo(number, places) for number in range(PROCESSES)])

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.install()
for work in (collect, open_and_close):
    threading.Thread(target=work, daemon=True).start()
before = len(os.listdir("/proc/self/fd"))
asyncio.run(main())
done.set()
time.sleep(0.1)
assert not closed, f"file descriptors of another thread were closed: {closed}"
assert len(os.listdir("/proc/self/fd")) <= before + 2
print("all well")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_many_processes_beside_other_threads(loop: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, loop], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.stdout.strip() == "all well", run.stderr[-2000:]
