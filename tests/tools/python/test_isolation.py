"""The choice of an isolation, and settings of the Python tool that cannot work."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path

import pytest
from verl.tools.tool_registry import initialize_tools_from_config

from tests.assets.sandbox import OVER_CPU, STRONG, forget_what_works, make_tool, opened
from verl_atpo.settings import ConfigError
from verl_atpo.tools import ToolOutage
from verl_atpo.tools.python import PythonTool, isolation
from verl_atpo.tools.python.config import Isolation, PythonConfig


async def test_a_sandbox_that_does_not_start_is_an_outage(strong: Isolation):
    tool = make_tool(strong)
    working = tool.sandbox
    for command in (("/no/such/program",), ("/bin/sh", "-c", "echo broken >&2; exit 1"), ("/bin/sleep", "60")):
        tool.sandbox = dataclasses.replace(working, command=command, isolation=Isolation.LANDLOCK)
        tool.settings = dataclasses.replace(tool.settings, start_s=0.3)
        with pytest.raises(ToolOutage, match="could not be started"):
            await tool.open()


def test_auto_takes_the_strongest_and_never_a_weak_one(monkeypatch: pytest.MonkeyPatch, caplog):
    def broken(*args: object) -> str:
        raise OSError("not on this machine")

    forget_what_works()
    with caplog.at_level(logging.INFO):
        assert PythonTool({}).sandbox.isolation in STRONG  # on every machine that runs these tests
    assert "The Python tool's sandbox is" in caplog.text
    forget_what_works()
    monkeypatch.setattr(isolation, "bwrap_program", broken)
    make_tool(Isolation.LANDLOCK)
    with caplog.at_level(logging.WARNING):
        assert PythonTool({}).sandbox.isolation is Isolation.LANDLOCK
    assert "sandbox is landlock, as others do not work here: {'bubblewrap': 'OSError: not on this" in caplog.text
    forget_what_works()
    monkeypatch.setattr(isolation, "check_landlock", broken)
    with pytest.raises(ConfigError, match=r"(?s)'auto' does not work.*bubblewrap: OSError.*landlock: .*Remedies: `pip"):
        PythonTool({})
    with pytest.raises(ConfigError, match="'bubblewrap' does not work"):
        PythonTool({"isolation": "bubblewrap"})
    forget_what_works()


def test_a_sandbox_that_lets_something_through_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "SYSTEM", (*isolation.SYSTEM, "/etc/passwd"))
    forget_what_works()
    with pytest.raises(ConfigError, match="the sandbox does not hold: code in it could read /etc/passwd"):
        PythonTool({})
    forget_what_works()


async def test_limits_only_says_so_and_still_limits(caplog):
    forget_what_works()
    tool = make_tool(Isolation.LIMITS_ONLY)
    assert "WITHOUT a sandbox" in caplog.text
    async with opened(tool) as session:
        assert "MemoryError" in await tool.call(session, "bytearray(10**12)")
        assert re.fullmatch(OVER_CPU, await tool.call(session, "while True: pass"))
        await tool.call(session, "import os\nif os.fork() == 0:\n    while True: pass")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"isolation": "none"}, "python.isolation='none' cannot work: expected one of auto, bubblewrap, landlock"),
        ({"cpu": 1.0}, "python.cpu is not a setting"),
        ({"cpu_s": 0.0}, "python.cpu_s=0.0 cannot work: expected a number above 0"),
        ({"memory_mb": 1}, "python.memory_mb=1 cannot work: expected an integer of at least 64"),
        ({"seed": -1}, "python.seed=-1 cannot work"),
        ({"python": "/no/python"}, "python.python='/no/python' cannot be run"),
    ],
)
def test_settings_that_cannot_work(settings: dict, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        PythonTool(settings)


def test_the_shipped_tool_config_is_the_default():
    path = Path(isolation.__file__).parents[1] / "python.yaml"
    (tool,) = initialize_tools_from_config(str(path))
    assert isinstance(tool, PythonTool) and tool.settings == PythonConfig()
    function = tool.tool_schema.function
    assert function.name == "python" and list(function.parameters.properties) == function.parameters.required == [
        "code"
    ]
