"""The tools of one run of an agent loop: recorded calls are replayed, live ones guarded, every state released once.

What is recorded is text, made when the call was made (:mod:`verl_atpo.tools.answer`).

| a tool's branching | a call that is on record | a live call |
|---|---|---|
| stateless | is answered from the recording | is made |
| replay | is made again, on this run's own state | is made on that state |
| fork | is answered from the recording | is made on a state restored from the last recorded call's snapshot |
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import ToolResponse

from verl_atpo.config import OnOutage
from verl_atpo.deadlines.threads import in_thread
from verl_atpo.failure import ToolOutage, TrajectoryBug, message
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.guard import HOUSEKEEPING_S, CallCounts, CallMemo, Live, ToolGuard
from verl_atpo.replay.states import State, States, call_hook
from verl_atpo.tools.answer import answer_of, answered
from verl_atpo.tools.contract import Branching, branching_of
from verl_atpo.tools.row import without_nulls
from verl_atpo.tools.stateful import Action, StatefulTool, expanded
from verl_atpo.tools.tool_agent import OBSERVER, REACHED
from verl_atpo.tree.recording import ToolCall

logger = logging.getLogger(__name__)

Make = Callable[[dict[str, Any]], Awaitable[Any]]
"""Makes one attempt of a call, with its own copy of the arguments."""


class ToolSession:
    """Wraps a loop's tools for one run; an ``async`` context that releases their states at its end.

    Args:
        session: the run's LLM client, which holds the recording.
        guard: guard of live calls.
        memo: memo of calls of stateless tools, or None.
        snapshots: whether forking tools have to leave snapshots, because later expansions may start here.

    Attributes:
        counts: counts of the run's calls.
    """

    def __init__(
        self, session: ReplayClient, guard: ToolGuard, memo: CallMemo | None = None, snapshots: bool = True
    ) -> None:
        self._session = session
        self._guard = guard
        self._memo = memo
        self._snapshots = snapshots
        self._taken: set[tuple[int, int]] = set()
        self._made = 0
        self._malformed_in_a_row = 0
        self.counts = CallCounts()
        self._states = States(self.counts)

    def wrap(self, tools: Sequence[Any]) -> list[Any]:
        """Make the loop's tools for this run, of the same types and names; actions replace their stateful tool."""
        return [
            self._function(tool) if isinstance(tool, FunctionTool) else self._tool(tool) for tool in expanded(tools)
        ]

    async def __aenter__(self) -> ToolSession:
        self._token = OBSERVER.set(self)
        return self

    async def __aexit__(self, *error: object) -> None:
        OBSERVER.reset(self._token)
        await asyncio.shield(asyncio.create_task(self.close()))  # also when the run was cancelled

    async def close(self) -> None:
        """Release the states and hand over what was counted."""
        await self._states.close(self._guard)
        self.counts.ended_by_invalid += self.ends_run()
        self._guard.totals.add(self.counts)

    def asked(self, malformed: bool) -> None:
        """Count malformed calls in a row, in the order in which the model wrote them."""
        self._malformed_in_a_row = self._malformed_in_a_row + 1 if malformed else 0

    def ends_run(self) -> bool:
        """Return whether as many calls in a row were malformed as ``tools.max_consecutive_invalid_calls`` allows."""
        limit = self._guard.config.max_consecutive_invalid_calls
        return limit is not None and self._malformed_in_a_row >= limit

    def answered_without_tool(self, name: str, arguments: Any, text: str) -> str:
        """Count and record a call that did not reach its tool: an error that the model reads in the loop's words.

        Returns:
            These words, without control tokens: they repeat the name that the model made up.
        """
        text = self._guard.text(text)
        if self._session.replaying:
            return text
        self.counts.refused(text)
        if self._session.generations:
            call = ToolCall(name, {"arguments": arguments}, made=False, result=text, error=ValueError(text))
            self._session.generations[-1].tool_calls.append(call)
        return text

    def _function(self, tool: FunctionTool) -> FunctionTool:
        async def call(**arguments: Any) -> Any:
            live = tool.fn if tool.is_async else functools.partial(in_thread, answered, tool.fn)
            return await self._call(tool, arguments, lambda own: live(**own))

        return dataclasses.replace(tool, fn=call, is_async=True)

    def _tool(self, tool: Any) -> Any:
        """Copy a ``BaseTool``, shallowly, so that its ``execute`` goes through this session."""
        bound = copy.copy(tool)
        create_kwargs: dict[str, dict[str, Any]] = {}

        async def create(instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
            given = without_nulls(kwargs.get("create_kwargs")) or {}
            made, response = await tool.create(instance_id, **{**kwargs, "create_kwargs": given})
            create_kwargs[made] = given
            return made, response

        async def execute(instance_id: str, parameters: dict[str, Any], **kwargs: Any) -> Any:
            if not isinstance(parameters, dict):  # a model may write any JSON
                result = f"Arguments of {tool.name!r} have to be a JSON object, got {type(parameters).__name__}."
                self.answered_without_tool(tool.name, parameters, result)
            elif isinstance(tool, StatefulTool | Action):
                result = await self._stateful(tool, parameters, create_kwargs.get(instance_id, {}))
            else:
                result = await self._call(tool, parameters, lambda own: tool.execute(instance_id, own, **kwargs))
            return answer_of(result)

        async def release(instance_id: str, **kwargs: Any) -> None:
            create_kwargs.pop(instance_id, None)
            try:
                await tool.release(instance_id, **kwargs)
            except Exception:  # the call has been answered
                logger.exception("Tool %r could not release its instance", tool.name)

        bound.create, bound.execute, bound.release = create, execute, release
        return bound

    async def _stateful(self, tool: Any, arguments: dict[str, Any], create_kwargs: dict[str, Any]) -> Any:
        state = self._states.of(tool)
        async with state.lock:
            return await self._call(
                tool, arguments, lambda own: self._states.call(state, tool, own, create_kwargs), state
            )

    async def _call(self, tool: Any, arguments: dict[str, Any], make: Make, state: State | None = None) -> Any:
        """Answer a call from the recording, or make it and record it.

        Args:
            tool, arguments: tool and arguments of the call; a tool may change them, so each attempt has a copy.
            make: makes one attempt.
            state: state of a stateful tool.
        """
        arguments = copy.deepcopy(arguments)

        def live() -> Awaitable[Any]:
            return make(copy.deepcopy(arguments))

        if self._session.closed:
            raise TrajectoryBug(f"A task that the agent loop left running called {tool.name!r} after the loop's end.")
        if (reached := REACHED.get()) is not None:
            reached.tool = True
        branching = branching_of(tool)
        call = self._recorded(tool.name, arguments)
        if call is None:
            call = await self._limited(tool, arguments, live, branching)
            await self._record(tool, call, branching, state)
        elif call.made and branching is Branching.REPLAY:
            # An answer other than the recorded one shows in the loop's next prompt, which ends the replay.
            call = await self._live(tool, arguments, live, branching)
        elif state is not None and call.snapshot is not None:
            state.snapshot = call.snapshot
        if call.error is not None:
            raise call.error
        return call.result

    def _recorded(self, name: str, arguments: dict[str, Any]) -> ToolCall | None:
        if not self._session.replaying:
            return None
        latest = self._session.latest
        turn = id(latest)
        for position, call in enumerate(latest.tool_calls if latest is not None else ()):
            if (turn, position) not in self._taken and call.name == name and call.arguments == arguments:
                self._taken.add((turn, position))
                self._made += call.made
                return call
        return None

    async def _limited(self, tool: Any, arguments: dict[str, Any], live: Live, branching: Branching) -> ToolCall:
        limit = self._guard.config.max_calls
        if limit is not None and self._made >= limit:
            self.counts.over_limit += 1
            text = f"The limit of {limit} tool calls is reached. Answer with what you know."
            return ToolCall(tool.name, arguments, made=False, result=text)
        self._made += 1
        return await self._live(tool, arguments, live, branching)

    async def _live(self, tool: Any, arguments: dict[str, Any], live: Live, branching: Branching) -> ToolCall:
        call = ToolCall(tool.name, arguments)
        started = time.monotonic()
        try:
            with self._session.activity.pause():
                result = await self._remembered(tool.name, arguments, live, branching)
            call.result = self._guard.observation(result)
        except ToolOutage as outage:
            self.counts.outages += 1
            logger.warning("%s", outage)
            if self._guard.config.on_outage is OnOutage.REGROW:
                self._session.failure = outage
            call.result = f"{tool.name} is not available at the moment."
        except TrajectoryBug as bug:
            self._session.failure = bug
            call.result = f"{tool.name} is broken."
        except Exception as error:  # recorded, and raised again now and on every replay
            self.counts.raised(error)
            call.error = self._harmless(error)
        finally:
            self.counts.seconds += time.monotonic() - started
        return call

    async def _remembered(self, name: str, arguments: dict[str, Any], live: Live, branching: Branching) -> Any:
        stateless = branching is Branching.STATELESS
        made = False

        async def guarded() -> Any:
            nonlocal made
            made = True
            self.counts.calls += 1
            return await self._guard.call(name, live, self.counts, retry=stateless)

        if self._memo is None or not stateless:
            return await guarded()
        result = await self._memo.get(name, arguments, guarded)
        self.counts.memo_hits += not made
        return result

    def _harmless(self, error: Exception) -> Exception:
        """Return ``error``, or one with other words if it has none, or none that are fit to be read by the model."""
        words = message(error)
        text = self._guard.text(words or type(error).__name__)
        if text == words:
            return error
        harmless = RuntimeError(text)
        harmless.__cause__ = error
        return harmless

    async def _record(self, tool: Any, call: ToolCall, branching: Branching, state: State | None) -> None:
        latest = self._session.latest
        if latest is None or self._session.replaying:
            return
        if state is not None and state.opened and branching is Branching.FORK and self._snapshots:
            try:
                name = f"Tool {tool.name!r}, snapshot"
                copy_state = functools.partial(call_hook, "snapshot", state, state.value)
                call.snapshot = await self._guard.bounded(name, copy_state, HOUSEKEEPING_S)
            except Exception as error:  # the call itself was carried out: no error of the model's
                self._session.failure = error
        latest.tool_calls.append(call)
