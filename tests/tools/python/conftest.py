"""Every test here leaves no process and no descriptor behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from tests.assets.sandbox import SECRET, STRONG, make_tool
from verl_atpo.tools.python import PythonTool
from verl_atpo.tools.python.config import Isolation
from verl_atpo.tools.python.tool import NO_OUTPUT, Session


@pytest.fixture(params=STRONG, ids=lambda each: each.value)
def strong(request: pytest.FixtureRequest) -> Isolation:
    return request.param


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """All below it, without the viewer tests' browser, which lives beside them and starts helpers when it likes."""
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not child.name().startswith(("chromedriver", "chromium")):
                found.append(child)
    return found


@pytest.fixture(autouse=True)
def nothing_remains() -> Iterator[None]:
    """Afterwards this process has the children and descriptors that it had before."""
    me = psutil.Process()
    children, descriptors = children_of(me), me.num_fds()
    yield
    deadline = time.monotonic() + 20  # what ends them needs processor time on a busy machine
    while True:
        children_now, descriptors_now = children_of(me), me.num_fds()
        if (children_now == children and descriptors_now <= descriptors) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert children_now == children
    assert descriptors_now <= descriptors


@pytest.fixture
async def attacked(strong: Isolation, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PythonTool, Session]]:
    monkeypatch.setenv("TRAINER_SECRET", SECRET)
    tool = make_tool(strong)
    session = await tool.open()
    worker = psutil.Process(session.interpreter._worker.pid)
    assert await tool.call(session, "kept = 42") == NO_OUTPUT
    yield tool, session
    await tool.close(session)
    await tool.close(session)  # is safe
    assert not worker.is_running()
