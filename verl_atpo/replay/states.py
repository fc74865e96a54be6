"""The states of one run's stateful tools: made or restored when they are first needed, each released once."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import logging
from collections.abc import Coroutine
from typing import Any

from verl_atpo.failure import TrajectoryBug, brief, is_outage
from verl_atpo.replay.guard import HOUSEKEEPING_S, CallCounts, ToolGuard
from verl_atpo.tools.answer import answered
from verl_atpo.tools.stateful import StatefulTool, method_of, owner_of, run

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class State:
    """This run's state of one stateful tool, which its actions share.

    Attributes:
        tool: the tool that opens and closes it.
        value: return value of its ``open`` or ``restore``, once ``opened``.
        snapshot: the state that the recorded calls left, for a forking tool that has not been called live yet.
        lock: calls of one turn at the same time take turns.
    """

    tool: StatefulTool
    value: Any = None
    opened: bool = False
    snapshot: Any = None
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)


class States:
    """All states of one run.

    Args:
        counts: counter of opened and closed states.
    """

    def __init__(self, counts: CallCounts) -> None:
        self._counts = counts
        self._states: dict[str, State] = {}
        self._pending: set[asyncio.Task] = set()

    def of(self, tool: Any) -> State:
        """Return the state of a stateful tool or an action, opened or not."""
        owner = owner_of(tool)
        return self._states.setdefault(owner.name, State(owner))

    async def call(self, state: State, tool: Any, arguments: dict[str, Any], create_kwargs: dict[str, Any]) -> Any:
        """Make one live call of a tool or an action; the first one makes the state."""
        if not state.opened:
            await self._step(
                self._open(state, create_kwargs), threaded=not inspect.iscoroutinefunction(state.tool.open)
            )
        method = method_of(tool)
        threaded = not inspect.iscoroutinefunction(method)
        step = functools.partial(run, answered) if threaded else run
        return await self._step(step(method, state.value, **arguments), threaded)

    async def _open(self, state: State, create_kwargs: dict[str, Any]) -> None:
        if state.snapshot is not None:
            state.value = await call_hook("restore", state, state.snapshot)
        else:
            state.value = await call_hook("open", state, **create_kwargs)
        state.opened = True
        self._counts.states_opened += 1

    async def _step(self, step: Coroutine[Any, Any, Any], threaded: bool) -> Any:
        """Await a step on a state; a thread cannot be cancelled, so :meth:`close` waits for it."""
        if not threaded:
            return await step
        task = asyncio.create_task(step)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return await asyncio.shield(task)

    async def close(self, guard: ToolGuard) -> None:
        """Release every state once, also after another release failed; a failed release is logged.

        Args:
            guard: bounds the wait for threads that still work on a state, and each release.
        """
        if self._pending:
            _, late = await asyncio.wait(self._pending, timeout=guard.config.timeout_s or HOUSEKEEPING_S)
            for task in late:
                logger.error("A tool's thread still runs after its time-out; its state cannot be released: %r", task)
        states, self._states = self._states, {}
        for name, state in states.items():
            if state.opened:
                try:
                    close = functools.partial(run, state.tool.close, state.value)
                    await guard.bounded(f"Tool {name!r}, close", close, HOUSEKEEPING_S)
                    self._counts.states_closed += 1
                except Exception:
                    logger.exception("Tool %r could not release a state", name)


async def call_hook(method: str, state: State, *args: Any, **kwargs: Any) -> Any:
    """Call ``open``, ``snapshot`` or ``restore`` of a stateful tool, which no call of the model may make fail.

    Raises:
        TrajectoryBug: it raised what is no outage; names tool, method and remedy.
        Exception: an outage.
    """
    try:
        return await run(getattr(state.tool, method), *args, **kwargs)
    except Exception as error:
        if is_outage(error):
            raise
        given = f" with create_kwargs={sorted(kwargs)}" if kwargs else ""
        raise TrajectoryBug(
            f"{type(state.tool).__qualname__}.{method}{given} of the tool {state.tool.name!r} raised {brief(error)}. "
            "No call of the model is to blame. Remedy: correct it, or the row's tools_kwargs; for "
            "transient errors raise verl_atpo.tools.TransientToolError."
        ) from error
