"""The ``python`` tool: one sandboxed interpreter per trajectory, whose variables persist between calls.

Setting: ``actor_rollout_ref.rollout.multi_turn.tool_config_path=.../verl_atpo/tools/python.yaml``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import Any

from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_atpo.settings import read
from verl_atpo.tools.python.config import PythonConfig
from verl_atpo.tools.python.interpreter import Interpreter, InterpreterLost
from verl_atpo.tools.python.isolation import find_sandbox
from verl_atpo.tools.stateful import StatefulTool
from verl_atpo.tools.text import neutralise

NO_OUTPUT = "(no output)"
LOST = "Its variables are lost; the next call starts a new interpreter."
FRESH = "[New interpreter: the variables of earlier calls are lost.]\n"
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,16}\b")


@dataclasses.dataclass
class Session:
    """The state of a trajectory.

    Attributes:
        interpreter: the present one, which may have been killed.
    """

    interpreter: Interpreter


class PythonTool(StatefulTool):
    """Runs model-written code in a sandbox; expansions repeat its past calls in a fresh interpreter (replay).

    Args:
        config: settings of :class:`PythonConfig`, and verl's ``type``.
        tool_schema: description for the model; by default the docstring of :meth:`call`.

    Raises:
        ConfigError: a setting that cannot work, or an isolation that does not work on this machine.
    """

    name = "python"

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        super().__init__(config, tool_schema)
        self.settings = self.read_settings(config)
        self.sandbox = find_sandbox(self.settings)
        self._starts = asyncio.Semaphore(self.settings.starts)

    @classmethod
    def read_settings(cls, config: dict[str, Any]) -> PythonConfig:
        """Read the settings in a tool's ``config``; the start-up checks call it before any tool is made.

        Raises:
            ConfigError: a setting that cannot work.
        """
        return read(PythonConfig, {key: value for key, value in config.items() if key != "type"}, "python")

    async def open(self) -> Session:  # type: ignore[override]
        """Start the interpreter of a trajectory.

        Raises:
            ToolOutage: it could not be started.
        """
        return Session(await self._start())

    async def call(self, state: Session, code: str) -> str:  # type: ignore[override]
        """Runs Python code and returns what it prints and the value of its last expression. Variables persist.

        Args:
            code: The Python code.
        """
        if not isinstance(code, str):
            return f'Error: python needs a string "code", got {type(code).__name__}.'
        note = ""
        if state.interpreter.closed:
            await state.interpreter.close()
            state.interpreter, note = await self._start(), FRESH
        try:
            output = await state.interpreter.run(code)
        except InterpreterLost as lost:
            await state.interpreter.close()
            return f"{note}{lost} {LOST}"
        output = neutralise(output.rstrip("\n"))
        # Addresses differ from process to process, and a replay should show what the first run showed.
        return note + (ADDRESS.sub("at 0x...", output) or NO_OUTPUT)

    async def close(self, state: Session) -> None:  # type: ignore[override]
        """Kill the interpreter and wait until nothing is left of it."""
        await state.interpreter.close()

    async def _start(self) -> Interpreter:
        async with self._starts:
            return await Interpreter.start(self.sandbox, self.settings)
