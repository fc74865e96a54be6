"""Agents that the gateway runs: a Python function on its own thread, or a command in its own folder."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import json
import logging
import shlex
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from verl_atpo.gateway.commands import GroupProcess, command_environment, killed
from verl_atpo.gateway.settings import KEY, GatewayConfig
from verl_atpo.settings import refuse
from verl_atpo.tools.workspace import LocalWorkspace

logger = logging.getLogger(__name__)

LONGEST_TRACEBACK = 2000
TASK_FILE, RESULT_FILE = "task.json", "result.json"


@dataclasses.dataclass(frozen=True)
class Access:
    """Address, key and model name by which an agent reaches the policy.

    Attributes:
        base_url: address of chat completions, ends with ``/v1``.
        api_key: key of this trajectory alone.
        model: the policy's name.
    """

    base_url: str
    api_key: str
    model: str = "policy"


@dataclasses.dataclass(frozen=True)
class Task:
    """Task of an agent.

    Attributes:
        messages: the data row's prompt, chat messages.
        row: all fields of the data row.
    """

    messages: list[dict[str, Any]]
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """The content of the last user message."""
        users = [message["content"] for message in self.messages if message["role"] == "user"]
        return str(users[-1]) if users else ""

    @property
    def extra_info(self) -> dict[str, Any]:
        """The data row's column of that name."""
        return dict(self.row.get("extra_info") or {})

    def to_json(self) -> str:
        """Return the task as a command reads it: messages, text and extra_info, without the answer."""
        fields = {"messages": self.messages, "text": self.text, "extra_info": self.extra_info}
        return json.dumps(fields, ensure_ascii=False, default=str)


class AgentCrash(Exception):
    """The agent raised an error or crashed.

    Args:
        text: ends with its last output.
        killed: it was ended by a signal that came from outside, such as that of a machine without memory.
    """

    def __init__(self, text: str, killed: bool = False) -> None:
        super().__init__(text)
        self.killed = killed


class Agent(Protocol):
    """An agent that is run once per trajectory."""

    async def run(self, task: Task, access: Access, workspace: LocalWorkspace | None = None) -> Any:
        """Run to the end; when cancelled, end all that was started.

        Args:
            task: task of the agent.
            access: to the policy.
            workspace: the trajectory's own, if agents have one.

        Returns:
            The agent's result.

        Raises:
            AgentCrash: it raised an error or crashed.
        """


def make_agent(config: GatewayConfig, name: str | None = None) -> Agent:
    """Return the agent that the settings, or a data row, name.

    Args:
        config: the gateway's settings.
        name: function that takes the place of ``config.agent``.

    Raises:
        ConfigError: none is named, or it cannot be imported or found.
    """
    if (name or config.agent) is not None:
        return FunctionAgent(import_function(str(name or config.agent), config.workspace is not None), config)
    if config.command is not None:
        command = shlex.split(config.command) if isinstance(config.command, str) else list(config.command)
        if not command:
            raise refuse(f"{KEY}.command", config.command, "expected a program and its arguments")
        return CommandAgent(command, config)
    raise refuse(
        f"{KEY}.agent",
        None,
        f"name the function that runs your agent (package.module:function), or its command line in {KEY}.command",
    )


def import_function(name: str, workspace: bool = False) -> Callable[..., Any]:
    """Import ``package.module:function`` or ``path/to/file.py:function``.

    Args:
        name: name of the function.
        workspace: whether it gets a workspace.

    Raises:
        ConfigError: there is no such module or function, or it does not take these arguments.
    """
    arguments = ("task", "base_url", "api_key", *(["workspace"] if workspace else []))
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise refuse(f"{KEY}.agent", name, "expected package.module:function or path/to/file.py:function")
    try:
        function = getattr(_module(place), attribute)
    except Exception as error:
        why = f"{type(error).__name__}: {error}. Is the working folder or PYTHONPATH right?"
        raise refuse(f"{KEY}.agent", name, why, error) from error
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        raise refuse(f"{KEY}.agent", name, f"expected a function of ({', '.join(arguments)}): {error}") from error
    return function


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).expanduser().resolve()
    name = f"verl_atpo_agent_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class FunctionAgent:
    """Runs ``agent(task, base_url, api_key)``, plain or async, on a thread and an event loop of its own.

    So a blocking client inside an async function blocks no other agent. A plain function cannot be ended from outside:
    its next request is refused, and one that does not end then is logged with the line where it stands.
    """

    def __init__(self, function: Callable[..., Any], config: GatewayConfig) -> None:
        self._function, self._config = function, config

    async def run(self, task: Task, access: Access, workspace: LocalWorkspace | None = None) -> Any:
        """Run the function; see :class:`Agent`."""
        further = () if workspace is None else (workspace,)
        running = _Thread(self._function, (task, access.base_url, access.api_key, *further))
        running.thread.start()
        try:
            return await asyncio.wrap_future(running.future)
        finally:
            running.cancel()
            await self._wait(running)

    async def _wait(self, running: _Thread) -> None:
        waited = 0.0
        while running.thread.is_alive():
            if waited >= self._config.grace_s:
                logger.error("The agent's function still runs after its end. It is at:\n%s", running.stack())
                return
            await asyncio.sleep(0.01)
            waited += 0.01


class _Thread:
    """One run of a function."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        import concurrent.futures

        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._function, self._arguments = function, arguments
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = threading.Event()
        self.thread = threading.Thread(target=self._run, name="verl_atpo_agent", daemon=True)

    def _run(self) -> None:
        try:
            result = self._function(*self._arguments)
            if inspect.isawaitable(result):
                result = asyncio.run(self._awaited(result))
        except BaseException as error:  # also SystemExit of the user's code
            self._set(self.future.set_exception, AgentCrash(_tail(error)))
        else:
            self._set(self.future.set_result, result)

    def _set(self, setter: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(Exception):  # the caller is gone
            setter(value)

    async def _awaited(self, result: Any) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._cancelled.is_set():
            raise asyncio.CancelledError
        return await result

    def cancel(self) -> None:
        """Cancel an async function; a plain one continues."""
        self._cancelled.set()
        if self._loop is not None and self._task is not None and self.thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._task.cancel)

    def stack(self) -> str:
        """Stack of the thread."""
        frame = sys._current_frames().get(self.thread.ident or -1)
        return "".join(traceback.format_stack(frame)[-6:]) if frame is not None else "(unknown)"


def _tail(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).strip()
    return text[-LONGEST_TRACEBACK:]


class CommandAgent:
    """Runs a command line in a folder of its own, which holds the task and takes the result.

    Environment: ``OPENAI_BASE_URL``, ``OPENAI_API_KEY``, ``OPENAI_MODEL``, ``ANTHROPIC_BASE_URL``,
    ``ANTHROPIC_API_KEY``, ``ANTHROPIC_MODEL``, ``TASK_FILE`` and ``RESULT_FILE``. A result is a JSON value; any other
    text is a result as it stands, and no file is none.
    """

    def __init__(self, command: list[str], config: GatewayConfig) -> None:
        self.command, self._config = command, config

    async def run(self, task: Task, access: Access, workspace: LocalWorkspace | None = None) -> Any:
        """Run the command; see :class:`Agent`."""
        with tempfile.TemporaryDirectory(prefix="agent-", ignore_cleanup_errors=True) as root:
            folder, logs = Path(root) / "work", Path(root) / "logs"
            folder.mkdir()
            logs.mkdir()
            task_file, result_file = Path(root) / TASK_FILE, Path(root) / RESULT_FILE
            task_file.write_text(task.to_json(), encoding="utf-8")
            environment = command_environment(self._config.environment, access, task_file, result_file)
            if workspace is not None:
                environment |= {"WORKSPACE": str(workspace.path), "WORKSPACE_RUN": str(workspace.program())}
            try:
                process = GroupProcess(self.command, environment, folder, logs, access.api_key, self._config)
            except OSError as error:
                raise AgentCrash(f"{self.command[0]!r} cannot be started: {error}") from error
            try:
                code = await process.wait()
            finally:
                await asyncio.shield(asyncio.ensure_future(process.end()))
            if code != 0:
                raise AgentCrash(f"exit code {code}; its last output:\n{process.last_output()}", killed(code))
            return self._result(result_file)

    def _result(self, path: Path) -> Any:
        if not path.is_file():
            return None
        if path.stat().st_size > self._config.result_bytes:
            raise AgentCrash(
                f"its result has {path.stat().st_size} bytes: expected {self._config.result_bytes} at most"
            )
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            return json.loads(text)
        except ValueError:
            return text
