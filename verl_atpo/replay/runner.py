"""Runner of any agent loop, with its own LLM client and its own tools, which it releases at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from verl_atpo.deadlines.within import within
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.guard import CallMemo, ToolGuard
from verl_atpo.replay.tools import ToolSession
from verl_atpo.tree.recording import Generation
from verl_atpo.tree.trajectory import Trajectory

Loop = Callable[[ReplayClient, list[Any]], Awaitable[Any]]
"""Runs the loop once, with this LLM client and these tools; returns the loop's output."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Start of a trajectory.

    Attributes:
        number: number of its leaf.
        prefix: generations that are replayed.
        snapshots: whether forking tools have to leave snapshots, because later expansions may start at its turns.
        on_turn, on_sampled: callbacks of its :class:`ReplayClient`.
    """

    number: int = 0
    prefix: Sequence[Generation] = ()
    snapshots: bool = False
    on_turn: Callable[[ReplayClient], None] | None = None
    on_sampled: Callable[[int], None] | None = None


@dataclasses.dataclass(frozen=True)
class LoopRunner:
    """Runs one agent loop again and again.

    Attributes:
        client: verl's ``LLMServerClient``, or any object with its ``generate``.
        guard: guard of live tool calls.
        loop: the loop.
        tools: tools of the loop.
        request_id: sticky routing id of all its requests; ``None`` keeps the loop's own ids.
        memo: memo of calls of stateless tools, or None.
        on_context: callback of each :class:`ReplayClient`.
        response_length: tokens at which a response is cut off; ``None`` if it never is.
        engine_s: time limit of each :class:`ReplayClient`.
        name: name of the loop, for messages.
    """

    client: Any
    guard: ToolGuard
    loop: Loop
    tools: Sequence[Any] = ()
    request_id: str | None = None
    memo: CallMemo | None = None
    on_context: Callable[[list[int]], None] | None = None
    response_length: int | None = None
    engine_s: float | None = None
    name: str = ""

    async def run(self, start: Start) -> tuple[ReplayClient, Any]:
        """Run the loop once.

        Returns:
            Its client, and what the loop returned.

        Raises:
            Exception: the error of the loop or the client; a tool's outage, if that is what ended the run. What the
                loop raised that is no ``Exception`` is one (:func:`verl_atpo.deadlines.within.within`).
        """
        callbacks = (start.on_turn, start.on_sampled, self.on_context)
        session = ReplayClient(self.client, self.request_id, start.prefix, *callbacks, self.engine_s)
        session.activity.name = f"Agent loop {self.name!r}"
        async with ToolSession(session, self.guard, self.memo, start.snapshots) as tools:
            try:
                output = await within(None, session.activity, self.loop(session, tools.wrap(self.tools)))
            finally:
                session.close()
            session.raise_failure()
        return session, output

    async def trajectory(self, start: Start) -> Trajectory:
        """Run the loop as a trajectory of a tree; raises what :meth:`run` and :meth:`Trajectory.of` do."""
        return Trajectory.of(*await self.run(start), self.response_length)
