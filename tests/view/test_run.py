"""What follows a run's folder: a process beside the pages' own, which ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tests.assets.browser import wait_until
from verl_atpo.view.demo import write_demo
from verl_atpo.view.run import Run


def test_trees_that_come_are_indexed_by_another_process_until_it_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run = Run(folder, tmp_path / "cache")
    run.start()
    follower = psutil.Process(run._follower.pid)
    try:
        write_demo(folder, 10)
        wait_until(lambda: run.index.progress().worded == run.index.progress().trees == 10, 60)
        assert follower.nice() > psutil.Process().nice()
    finally:
        run.stop()
    assert not follower.is_running()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from verl_atpo.view.run import Run
        if __name__ == "__main__":
            run = Run(Path(sys.argv[1]), Path(sys.argv[1]) / "cache")
            run.start()
            print(run._follower.pid, flush=True)
            time.sleep(100)
    """
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(script))
    process = subprocess.Popen([sys.executable, program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    follower = psutil.Process(int(process.stdout.readline()))
    time.sleep(0.5)
    os.kill(process.pid, number)
    process.wait(30)
    wait_until(lambda: not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE, 30)
