"""The Python tool with short limits, and what the model reads from it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from verl_atpo.settings import ConfigError
from verl_atpo.tools.python import PythonTool, isolation
from verl_atpo.tools.python.config import Isolation
from verl_atpo.tools.python.tool import FRESH, LOST, Session

STRONG = (Isolation.BUBBLEWRAP, Isolation.LANDLOCK)
LIMITS = {"cpu_s": 1.0, "wall_s": 30.0, "memory_mb": 400, "files": 50}
SECRET = "correct horse battery staple"
# What the model reads. Errors are those of the system, which differ a little.
DENIED = r"(PermissionError|FileNotFoundError|ProcessLookupError|OSError|BlockingIOError|NotADirectoryError): .*"
OVER_CPU = rf"The code used more than 1 s of CPU time and was stopped\. {re.escape(LOST)}"
KILLED = rf"The interpreter crashed \(SIGKILL\)\. {LOST}"


def make_tool(isolation: Isolation, **settings: object) -> PythonTool:
    """A tool with short limits."""
    try:
        return PythonTool({"type": "native", "isolation": isolation.value, **LIMITS, **settings})
    except ConfigError as error:
        if "does not hold" in str(error):  # it works here, and is broken
            raise
        pytest.skip(str(error))


def forget_what_works() -> None:
    isolation._tried.cache_clear()
    isolation._layout.cache_clear()


@contextlib.asynccontextmanager
async def opened(tool: PythonTool) -> AsyncIterator[Session]:
    session = await tool.open()
    try:
        yield session
    finally:
        await tool.close(session)


async def still_works(tool: PythonTool, session: Session, lost: bool) -> None:
    """The next call is answered, by the same interpreter or by a new one that says so."""
    seen = await tool.call(session, "print(globals().get('kept')); 6 * 7")
    assert seen == (f"{FRESH}None\n42" if lost else "42\n42")


STEAL = """
import json, os, sys, time
frame = sys._getframe()
while 'request' not in frame.f_locals: frame = frame.f_back
nonce = frame.f_locals['request']['nonce']
def forge(nonce):
    os.write(frame.f_locals['replies'], (json.dumps({'nonce': nonce, 'output': 'forged \\ud800'}) + '\\n').encode())
"""
"""Code of an attack: it finds the frame of the worker that runs it, and the nonce of the current call."""
